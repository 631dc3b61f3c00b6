"""The oracle: right about every image of the dataset, and about what is wrong in others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kgen import DataError
from kgen.contracts.dataset import Dataset
from kgen.contracts.metric import GeneratedImages, Metric, measure
from kgen.data.datasets.drawing import SHAPES
from kgen.data.datasets.shapes import COLORS, POSITIONS, RADII, Scene, Shapes, Thing, caption, render
from kgen.metrics.attributes import Attributes, read
from kgen.testing import MetricConformance

THINGS = [Thing(*names) for names in itertools.product(COLORS, SHAPES, RADII, POSITIONS)]
KINDS = ("color", "shape", "size", "position", "accuracy")
PERFECT = dict.fromkeys(KINDS, (1.0, 1.0))
HOPELESS = {"accuracy": (0.0, 0.05)}
RED = Thing("red", "circle", "large", "top left")
BLUE = Thing("blue", "cross", "small", "bottom right")
DATASET = Shapes(count=8)


class TestOneObject(MetricConformance):
    real = PERFECT
    noise = HOPELESS

    def build(self) -> Metric:
        return Attributes()

    def dataset(self) -> Dataset:
        return Shapes(size=16, jitter=0.04)


class TestTwoObjects(MetricConformance):
    real = PERFECT
    noise = HOPELESS
    count = 16

    def build(self) -> Metric:
        return Attributes()

    def dataset(self) -> Dataset:
        return Shapes(objects=2, count=16, jitter=0.04)


def score(pairs: list[tuple[Scene, Scene]]) -> dict[str, float]:
    """Scores pairs of rendered and requested scenes."""
    images = np.stack([render(shown, 32) for shown, _ in pairs])
    batch = GeneratedImages(images, [caption(wanted) for _, wanted in pairs])
    return dict(measure(Attributes(), DATASET, "train", [batch]))


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A little blur, paler colors and noise, as generated images have."""
    size = len(image)
    blurred = gaussian_filter(image.astype(float), (0.02 * size, 0.02 * size, 0))
    noisy = 255 - 0.95 * (255 - blurred) + rng.normal(0, 6, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_reads_every_combination_at_the_smallest_size() -> None:
    wrong = [thing for thing in THINGS if read(render((thing,), 16)) != (thing,)]
    assert not wrong


@pytest.mark.parametrize(("size", "step"), [(16, 7), (17, 7), (24, 11), (32, 7), (48, 29), (64, 37), (128, 37)])
def test_reads_every_size(size: int, step: int) -> None:
    """Steps share no factor with the number of combinations, so that every attribute's values come up in turn."""
    wrong = [thing for thing in THINGS[::step] if read(render((thing,), size)) != (thing,)]
    assert not wrong


@pytest.mark.parametrize("objects", [1, 2])
def test_reads_degraded_images(objects: int) -> None:
    rng = np.random.default_rng(0)
    dataset = Shapes(objects=objects, count=60, jitter=0.03)
    for i, scene in enumerate(dataset.scenes("train")):
        assert sorted(read(degrade(dataset.image("train", i), rng))) == sorted(scene), i


@pytest.mark.parametrize("color", COLORS)
def test_pale_objects_keep_their_color(color: str) -> None:
    thing = Thing(color, "circle", "large", "middle")
    pale = np.rint(255 - 0.8 * (255.0 - render((thing,), 32))).astype(np.uint8)
    assert read(pale) == (thing,)


def test_reads_two_objects() -> None:
    dataset = Shapes(objects=2, count=40)
    for i, scene in enumerate(dataset.scenes("train")):
        assert sorted(read(dataset.image("train", i))) == sorted(scene), i


def test_an_empty_image_has_no_object() -> None:
    assert read(np.full((32, 32, 3), 255, np.uint8)) == ()
    assert read(np.full((32, 32, 3), 245, np.uint8)) == ()


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("color", RED._replace(color="orange")),
        ("shape", RED._replace(shape="diamond")),
        ("size", RED._replace(size="small")),
        ("position", RED._replace(position="top")),
    ],
)
def test_one_wrong_attribute_lowers_its_score_and_the_accuracy(kind: str, shown: Thing) -> None:
    found = score([((shown,), (RED,))])
    assert found == {name: float(name not in (kind, "accuracy")) for name in KINDS}


def test_shares_are_of_all_objects_and_accuracy_of_images() -> None:
    found = score([((RED,), (RED,)), ((RED, BLUE), (RED, BLUE._replace(color="green")))])
    assert found == pytest.approx({"color": 2 / 3, "shape": 1, "size": 1, "position": 1, "accuracy": 1 / 2})


def test_a_missing_object_has_no_attribute() -> None:
    assert score([((RED,), (RED, BLUE))]) == {**dict.fromkeys(KINDS, 0.5), "accuracy": 0.0}
    assert score([((), (RED,))]) == dict.fromkeys(KINDS, 0.0)


def test_an_extra_object_costs_the_accuracy() -> None:
    assert score([((RED, BLUE), (RED,))]) == {**dict.fromkeys(KINDS, 1.0), "accuracy": 0.0}


def test_the_order_of_the_prompt_does_not_matter() -> None:
    assert score([((BLUE, RED), (RED, BLUE)), ((RED, BLUE), (BLUE, RED))]) == dict.fromkeys(KINDS, 1.0)


def test_swapped_colors_are_wrong() -> None:
    """Attributes must be on the same object: this is what a model that does not bind them gets wrong."""
    shown = (RED._replace(color="blue"), BLUE._replace(color="red"))
    assert score([(shown, (RED, BLUE))]) == {"color": 0.0, "shape": 1.0, "size": 1.0, "position": 1.0, "accuracy": 0.0}


def test_refuses_prompts_of_other_datasets_and_gray_images() -> None:
    with pytest.raises(DataError, match="not a caption of this dataset"):
        measure(Attributes(), DATASET, "train", [GeneratedImages(render((RED,), 32)[None], ["red heart"])])
    with pytest.raises(DataError, match="square and in color"):
        read(np.zeros((32, 32, 1), np.uint8))
