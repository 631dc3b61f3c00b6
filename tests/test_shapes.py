"""The rendered scenes: positions, captions, and held-out captions."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from kgen import DataError, KgenError
from kgen.contracts.dataset import Dataset
from kgen.data.datasets.drawing import SHAPES, coverage
from kgen.data.datasets.shapes import COLORS, POSITIONS, RADII, Shapes, Thing, caption, parse, render
from kgen.options import option_model
from kgen.testing import DatasetConformance

AREAS = {
    "circle": math.pi,
    "square": 4.0,
    "triangle": 2.0,
    "diamond": 2.0,
    "cross": 4 * 0.3 * 2 - 4 * 0.3**2,
    # ten triangles between the center, a tip (radius 1) and a notch (radius 1 / golden ratio squared)
    "star": 10 * 0.5 * math.sin(math.pi / 5) / ((1 + math.sqrt(5)) / 2) ** 2,
}
"""Of shapes of half-width 1."""

TWO = Shapes(objects=2, colors=("red", "blue"), shapes=("circle", "square"), holdout=("blue square",))


class TestOneObject(DatasetConformance):
    def build(self) -> Dataset:
        return Shapes(
            size=16, colors=("red", "blue"), shapes=("circle", "star"), holdout=("blue star",), count=60, jitter=0.02
        )


class TestTwoObjects(DatasetConformance):
    def build(self) -> Dataset:
        return Shapes(objects=2, colors=("red", "blue"), shapes=("circle", "square"), holdout=("blue square",))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("center", [(20.0, 20.0), (17.3, 22.9)])
def test_the_covered_area_is_that_of_the_shape(shape: str, center: tuple[float, float]) -> None:
    covered = coverage(shape, 12.0, center, 40)
    assert covered.min() == 0 and covered.max() == 1
    assert covered.sum() == pytest.approx(AREAS[shape] * 12.0**2, rel=0.015)  # samples on an edge count as inside


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_antialiased_and_mirrored(shape: str) -> None:
    covered = coverage(shape, 9.3, (16.0, 16.0), 32)
    np.testing.assert_allclose(covered, covered[:, ::-1], atol=1e-12)
    assert ((covered > 0) & (covered < 1)).any()
    upright = np.allclose(covered, covered[::-1])
    assert upright == (shape not in ("triangle", "star"))


def test_triangles_and_stars_point_up() -> None:
    for shape in ("triangle", "star"):
        rows = np.flatnonzero(coverage(shape, 12.0, (16.0, 16.0), 32).sum(1))
        covered = coverage(shape, 12.0, (16.0, 16.0), 32)
        assert np.flatnonzero(covered[rows[0]]).mean() == pytest.approx(15.5), "the tip is above the middle"
        assert (covered[rows[0]] > 0).sum() <= 2, "and it is a tip"


def test_objects_at_the_edge_are_cut_off_not_wrapped() -> None:
    whole, cut = coverage("square", 4.0, (16.0, 16.0), 32), coverage("square", 4.0, (0.0, 16.0), 32)
    assert cut.sum() == pytest.approx(whole.sum() / 2)
    assert not cut[:, 16:].any()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_object_is_complete_and_at_its_captions_position(size: int) -> None:
    """Color, center of mass and area, measured without the oracle, over every combination."""
    for name, position, shape in itertools.product(RADII, POSITIONS, SHAPES):
        thing = Thing("black", shape, name, position)
        ink = (255.0 - render((thing,), size)).mean(-1) / (255.0 - 25)  # (H, W): how much is covered
        assert ink.sum() == pytest.approx(AREAS[shape] * (RADII[name] * size) ** 2, rel=0.06), thing
        x, y = ((ink.sum(axis) * (np.arange(size) + 0.5)).sum() / ink.sum() / size for axis in (0, 1))
        assert x == pytest.approx(POSITIONS[position][0], abs=0.01), thing
        # a triangle's and a star's center of mass lie off their boxes' middle
        assert y == pytest.approx(POSITIONS[position][1], abs=RADII[name] * 0.4), thing


@pytest.mark.parametrize(
    ("position", "rows", "columns"),
    [
        ("top left", slice(0, 16), slice(0, 16)),
        ("top", slice(0, 16), slice(8, 24)),
        ("right", slice(8, 24), slice(16, 32)),
        ("bottom left", slice(16, 32), slice(0, 16)),
        ("bottom right", slice(16, 32), slice(16, 32)),
        ("middle", slice(8, 24), slice(8, 24)),
    ],
)
def test_positions_in_captions_are_correct(position: str, rows: slice, columns: slice) -> None:
    ink = 255 - render((Thing("black", "square", "small", position),), 32)
    assert ink.any() and ink[rows, columns].sum() == ink.sum()


@pytest.mark.parametrize(
    ("color", "most", "least"), [("red", 0, 2), ("green", 1, 0), ("blue", 2, 0), ("purple", 2, 1), ("yellow", 0, 2)]
)
def test_colors_in_captions_are_correct(color: str, most: int, least: int) -> None:
    red_green_blue = render((Thing(color, "square", "large", "middle"),), 32)[16, 16].tolist()
    assert red_green_blue.index(max(red_green_blue)) == most
    assert red_green_blue[least] < max(red_green_blue) / 2


def test_large_is_larger_than_small() -> None:
    small, large = ((255 - render((Thing("red", "circle", s, "middle"),), 32)).sum() for s in ("small", "large"))
    assert large > 2 * small


def test_middles_have_the_color_and_corners_are_white() -> None:
    for color, shape in itertools.product(COLORS, SHAPES):
        image = render((Thing(color, shape, "large", "middle"),), 32)
        assert tuple(image[16, 16]) == COLORS[color]
        assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_the_dataset_has_every_combination_once() -> None:
    dataset = Shapes()
    captions = dataset.captions("train")
    count = len(COLORS) * len(SHAPES) * len(RADII) * len(POSITIONS)
    assert len(captions) == len(set(captions)) == count
    assert not dataset.captions("holdout") and not dataset.captions("validation")
    assert len({dataset.image("train", i).tobytes() for i in range(count)}) == count, "no two captions look the same"


def test_captions() -> None:
    assert caption((Thing("red", "circle", "large", "top left"),)) == "a large red circle at the top left"
    assert caption((Thing("black", "star", "small", "middle"),)) == "a small black star in the middle"
    two = (Thing("red", "circle", "large", "top"), Thing("blue", "cross", "small", "bottom right"))
    assert caption(two) == "a large red circle at the top and a small blue cross at the bottom right"


@pytest.mark.parametrize("dataset", [Shapes(), TWO])
def test_parse_undoes_caption(dataset: Shapes) -> None:
    for scene, text in zip(dataset.scenes("train"), dataset.captions("train"), strict=True):
        assert parse(text) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a large red circle",
        "a large red circle at the middle",
        "a large red circle in the middle.",
        "a large pink circle in the middle",
        "a large red circle at the top and",
        "A large red circle in the middle",
    ],
)
def test_parse_refuses_texts_that_are_not_captions(text: str) -> None:
    with pytest.raises(DataError, match="not a caption of this dataset"):
        parse(text)


def test_two_objects_never_touch_and_come_in_reading_order() -> None:
    scenes = TWO.scenes("train")
    assert len(set(scenes)) == len(scenes) == len({frozenset(scene) for scene in scenes})
    names = list(POSITIONS)
    for first, second in scenes:
        assert names.index(first.position) < names.index(second.position)
        ink = [render((thing,), 32).min(-1) < 255 for thing in (first, second)]
        grown = ink[0] | np.roll(ink[0], 1, 0) | np.roll(ink[0], -1, 0)
        grown = grown | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
        assert not (grown & ink[1]).any(), (first, second)


def test_both_objects_are_rendered() -> None:
    red, blue = Thing("red", "circle", "large", "top left"), Thing("blue", "cross", "small", "bottom right")
    both, alone = render((red, blue), 32), [render((thing,), 32) for thing in (red, blue)]
    np.testing.assert_array_equal(both, np.minimum(*alone))


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("purple square", {"purple", "square"}),
        ("small star", {"small", "star"}),
        ("red bottom left", {"red", "bottom left"}),
        ("top left large circle", {"top left", "large", "circle"}),
        ("left cross", {"left", "cross"}),
    ],
)
def test_the_holdout_has_exactly_the_named_objects(text: str, attributes: set[str]) -> None:
    dataset = Shapes(holdout=(text,))
    whole = set(Shapes().captions("train"))
    held = {caption(scene) for scene in dataset.scenes("holdout")}
    assert held == {c for c in whole if attributes <= set(parse(c)[0])} and held
    assert set(dataset.captions("train")) == whole - held


def test_holdout_of_two_objects_keeps_every_scene_with_it_out() -> None:
    for split, inside in (("train", False), ("holdout", True)):
        assert TWO.scenes(split)
        for scene in TWO.scenes(split):
            assert any(thing.color == "blue" and thing.shape == "square" for thing in scene) == inside


def test_count_chooses_without_repeats_and_by_seed() -> None:
    few = Shapes(count=100)
    assert len(set(few.captions("train"))) == 100
    assert few.captions("train") == Shapes(count=100).captions("train") != Shapes(count=100, seed=1).captions("train")
    more = Shapes(count=2000, jitter=0.02)
    times = [list(more.captions("train")).count(text) for text in more.prompts("train")]
    assert len(times) == 864 and set(times) == {2, 3}, "every scene equally often"


def test_jitter_is_bounded_and_differs_each_time() -> None:
    options = {"size": 64, "colors": ("black",), "shapes": ("square",), "sizes": ("large",), "positions": ("middle",)}
    dataset = Shapes(**options, count=50, jitter=0.03)  # type: ignore[arg-type]
    centers = []
    for i in range(50):
        ink = 255.0 - dataset.image("train", i).mean(-1)
        centers.append([(ink.sum(a) * (np.arange(64) + 0.5)).sum() / ink.sum() / 64 - 0.5 for a in (0, 1)])
    assert 0.02 < np.abs(centers).max() <= 0.031
    assert len(np.unique(np.round(centers, 3), axis=0)) > 40
    still = Shapes(**options).image("train", 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(still, still[::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": ("purpel square",)}, "'purpel' is not one of .* did you mean 'purple'"),
        ({"holdout": ("purple square",), "colors": ("red",)}, "'purple' is not one of"),
        ({"holdout": ("square",)}, "must combine two attributes or more"),
        ({"holdout": ("red blue",)}, "two attributes of one kind"),
        ({"holdout": ("red circle", "red square"), "shapes": ("circle", "square")}, "leaves no red to train on"),
        ({"holdout": ("red circle",), "colors": ("red",), "shapes": ("circle",)}, "no scene of what holdout leaves"),
        ({"objects": 2, "positions": ("middle",)}, "no scene of two objects at these positions"),
        ({"count": 865}, "count 865 is more than the 864 scenes"),
        ({"colors": ()}, "colors is empty"),
        ({"shapes": ("heart",)}, r"shapes\[0\]: must be 'circle', .* or 'star', got 'heart'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(KgenError, match=message):
        Shapes(**options)  # type: ignore[arg-type]


def test_counts_are_limited_before_memory_is_taken() -> None:
    for name in ("count", "validation"):
        with pytest.raises(ValidationError, match="less than or equal to 10000000"):
            option_model(Shapes, "shapes")(**{name: 1_000_000_000_000, "jitter": 0.01})


def test_needs_no_framework() -> None:
    code = (
        "import sys; from kgen.data.datasets.shapes import Shapes; Shapes().image('train', 0)\n"
        "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_images_are_the_same_in_every_version() -> None:
    """Guards runs that are resumed: the fingerprint of a dataset changes only on purpose."""
    dataset = Shapes(size=16, colors=("red",), shapes=("star",), count=30, jitter=0.02, seed=5)
    again = Shapes(size=16, colors=("red",), shapes=("star",), count=30, jitter=0.02, seed=5)
    order = np.random.default_rng(0).permutation(30)
    images = {int(i): again.image("train", int(i)) for i in order}
    for i in range(30):
        np.testing.assert_array_equal(dataset.image("train", i), images[i])
    other = Shapes(size=16, colors=("red",), shapes=("star",), count=30, jitter=0.02, seed=6)
    assert dataset.fingerprint() == again.fingerprint() != other.fingerprint()


def test_validation_has_the_same_scenes_with_other_jitter() -> None:
    data = Shapes(colors=("red", "blue"), jitter=0.03, count=100, validation=100, holdout=("red square",))
    assert data.captions("validation") == data.captions("train")
    pairs = [(data.image("train", i), data.image("validation", i)) for i in range(100)]
    assert not any(np.array_equal(*pair) for pair in pairs)
    with pytest.raises(DataError, match="validation needs jitter"):
        Shapes(validation=10)
