"""Several datasets as one: what each contributes, in which order, and what is refused."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome
from parts import Words
from PIL import Image

from kgen import DataError, load, make_dataset
from kgen.config import RunConfig
from kgen.contracts.dataset import SPLITS, Dataset, Problem
from kgen.data.datasets.mixture import MIN_SHARE, Mixture
from kgen.data.loader import Loader
from kgen.data.order import DENOMINATOR, training_order
from kgen.runs.run import run
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

SHAPES: dict[str, Any] = {"name": "shapes", "size": 16, "count": 40, "objects": 1}


def mixture(*datasets: dict[str, Any]) -> Dataset:
    return make_dataset({"name": "mixture", "datasets": list(datasets)})


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, Any]:
    """Ten gray images, in two classes."""
    for number in range(10):
        path = tmp_path / "photos" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number,) * 3).save(path)
    return {"name": "imagefolder", "path": str(tmp_path / "photos"), "size": 16, "validation": 0.2}


class TestMixture(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: dict[str, Any]) -> None:
        self.folder = folder

    def build(self) -> Dataset:
        return mixture({**SHAPES, "weight": 1}, {**self.folder, "weight": 3})


def test_it_holds_the_examples_of_all_datasets(folder: dict[str, Any]) -> None:
    parts = [make_dataset(SHAPES), make_dataset(folder)]
    mixed = mixture(SHAPES, folder)
    assert mixed.fields == ("image", "caption", "label")
    for split in SPLITS:
        wanted = [part.example(split, i) for part in parts for i in range(len(part.captions(split)))]
        assert len(mixed.captions(split)) == len(wanted)
        for index, example in enumerate(wanted):
            found = mixed.example(split, index)
            np.testing.assert_array_equal(found["image"], example["image"])
            assert (found["caption"], found["label"]) == (example["caption"], example["label"])


def test_a_field_that_only_one_dataset_has_is_left_out(folder: dict[str, Any], tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a black square")
    captioned = {"name": "imagefolder", "path": str(tmp_path), "size": 16, "captions_from": "none"}
    mixed = mixture(folder, captioned)
    assert mixed.fields == ("image", "caption")
    with pytest.raises(DataError, match="no field 'label'"):
        mixed.values("train", "label")


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.1, 0.2, 0.7], [1, 1, 1], [1, 1000]])
def test_each_dataset_has_its_share_at_all_times(weights: list[float]) -> None:
    """After n examples, each has had its share of n, up to one example for each dataset; also far into a training."""
    shares = [(50 + n, weight / sum(weights)) for n, weight in enumerate(weights)]
    starts = np.cumsum([0, *(count for count, _ in shares)])
    order = training_order(int(starts[-1]), 7, shares)
    for first in (0, 10**9 + 13):
        counts = np.zeros(len(weights))
        for n, row in enumerate(order(range(first, first + 500))):
            counts[np.searchsorted(starts, row, side="right") - 1] += 1
            expected = (n + 1) * np.array([share for _, share in shares])
            assert np.abs(counts - expected).max() <= len(weights), (first, n)


def test_each_dataset_has_passes_of_its_own() -> None:
    seen = training_order(8, 3, [(5, 0.5), (3, 0.5)])(range(60))
    first, second = [row for row in seen if row < 5], [row for row in seen if row >= 5]
    for start in range(0, 30, 5):
        assert sorted(first[start : start + 5]) == list(range(5))
    for start in range(0, 30, 3):
        assert sorted(second[start : start + 3]) == [5, 6, 7]
    assert len({tuple(first[start : start + 5]) for start in range(0, 30, 5)}) > 1, "the passes differ in order"


def test_without_weights_every_example_is_used_once_per_pass(folder: dict[str, Any]) -> None:
    mixed = mixture(SHAPES, folder)
    count = len(mixed.captions("train"))
    encoder = Words()
    encoder.adapt(mixed.captions("train"))
    batch = next(iter(Loader(mixed, encoder, batch_size=count).training(seed=1)))
    drawn = Counter(encoder.words[token - 2] for token in batch["tokens"]["id"])
    assert drawn == Counter(mixed.captions("train"))


@pytest.mark.parametrize("flip", [False, True])
def test_batches_resume_in_the_middle_of_a_pass(folder: dict[str, Any], flip: bool) -> None:
    mixed = mixture({**SHAPES, "weight": 1}, {**folder, "weight": 1})
    encoder = Words()
    encoder.adapt(mixed.captions("train"))
    loader = Loader(mixed, encoder, batch_size=4, flip=flip)
    whole = list(itertools.islice(iter(loader.training(seed=1)), 12))
    resumed = itertools.islice(iter(loader.training(start=7, seed=1)), 5)
    for one, other in zip(whole[7:], resumed, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tokens"]["id"], other["tokens"]["id"])
    names = Counter(encoder.words[token - 2].startswith("class") for batch in whole for token in batch["tokens"]["id"])
    assert names == {True: 24, False: 24}


def test_the_first_lines_tell_the_shares(folder: dict[str, Any]) -> None:
    notes = mixture({**SHAPES, "weight": 1}, {**folder, "weight": 3}).notes()
    assert "mixture: 25.0% of the training examples are from 0: shapes, which has" in "\n".join(notes)
    assert "mixture: 75.0% of the training examples are from 1: imagefolder, which has 8" in "\n".join(notes)


def test_damaged_images_are_replaced_within_their_dataset(folder: dict[str, Any]) -> None:
    mixed = mixture(SHAPES, {**folder, "on_error": "skip"})
    first = len(make_dataset(SHAPES).captions("train"))
    mixed.report(Problem("1: imagefolder class 0/0.png", "it is damaged"))
    assert mixed.problems() == [Problem("1: imagefolder class 0/0.png", "it is damaged")]
    replaced = [i for i in range(len(mixed.captions("train"))) if mixed.replacement("train", i) != i]
    assert len(replaced) == 1 and replaced[0] >= first and mixed.replacement("train", replaced[0]) >= first


def test_the_fingerprint_follows_weights_and_data(folder: dict[str, Any]) -> None:
    prints = {
        mixture(*datasets).fingerprint()
        for datasets in (
            (SHAPES, folder),
            (folder, SHAPES),
            ({**SHAPES, "weight": 1}, {**folder, "weight": 1}),
            ({**SHAPES, "weight": 1}, {**folder, "weight": 2}),
            ({**SHAPES, "seed": 1}, folder),
        )
    }
    assert len(prints) == 5
    names = mixture(SHAPES, folder).inventory()
    assert "1: imagefolder class 0/0.png" in names and len(names) == 10 + len(make_dataset(SHAPES).inventory())


def test_sizes_and_weights_must_fit(folder: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"images of 1: shapes are 32x32x3 .*, and those of 0: imagefolder are 16x16x3"):
        mixture(folder, {**SHAPES, "size": 32})
    with pytest.raises(DataError, match="some datasets have a weight, and others have none"):
        mixture({**folder, "weight": 2}, SHAPES)


@pytest.mark.parametrize(("weights", "place"), [((1, 1e-7), 1), ((1, 1e308), 0), ((1e308, 1e308), 0)])
def test_a_dataset_that_training_would_never_use_is_refused(weights: tuple[float, float], place: int) -> None:
    assert MIN_SHARE == 1 / DENOMINATOR
    both = [{**SHAPES, "weight": weight} for weight in weights]
    with pytest.raises(DataError, match=f"mixture: {place}: shapes has the weight .* would never use it"):
        mixture(*both)


@pytest.mark.parametrize("weight", ["0", "-1", "much"])
def test_a_wrong_weight_is_refused_in_a_run_file(
    good: Path, folder: dict[str, Any], weight: str, kgen: Callable[..., Outcome]
) -> None:
    data = f"{{name: mixture, datasets: [{{name: imagefolder, path: {folder['path']}, weight: {weight}}}, shapes]}}"
    lines = good.read_text().splitlines()
    good.write_text("\n".join([f"data: {data}", *lines[1:]]))
    kgen("check", good).refuses("data.datasets[0].weight: must be")


def test_a_run_trains_on_a_mixture(good: Path, folder: dict[str, Any], kgen: Callable[..., Outcome]) -> None:
    data = (
        f"{{name: mixture, datasets: [{{name: imagefolder, path: {folder['path']}, size: 16, weight: 1}}, "
        "{name: shapes, size: 16, count: 40, weight: 2}]}"
    )
    lines = good.read_text().splitlines()
    good.write_text("\n".join([f"data: {data}", *lines[1:]]))
    done = kgen("run", good, "--out", good.parent / "run")
    assert done.status == 0, done.err
    assert "mixture: 66.7% of the training examples are from 1: shapes" in done.out


def test_prior_preservation(made_plugin: None, kgen: Callable[..., Outcome], tmp_path: Path) -> None:
    """Images of a class that a model has made, mixed with those of a subject: a folder's name is their caption.

    With the weights 1 and w, the loss is equation 2 of Ruiz et al. 2023 with lambda = w, divided by 1 + w.
    """
    base, weight = tmp_path / "base", 0.5
    data = {"name": "made/patterns", "count": 5, "size": 4}
    generator = {"name": "made/painter", "noise": 0.0}
    fit = {"steps": 1, "batch_size": 4}
    given = {"data": data, "encoder": "made/words", "generator": generator, "fit": fit, "loggers": []}
    run(RunConfig.from_dict({**given, "sample": {"every": 0}}), base, log=lambda line: None)
    assert kgen("generate", base, "a pattern", "-n", "4", "-o", f"{tmp_path}/class/a pattern/").status == 0
    pipeline = load(base)
    (tmp_path / "subject" / "my pattern").mkdir(parents=True)
    for gray in (0, 255):
        Image.new("RGB", (4, 4), (gray,) * 3).save(tmp_path / "subject" / "my pattern" / f"{gray}.png")
    shared = {"name": "imagefolder", "size": 4, "captions_from": "folders"}
    options = [{**shared, "path": str(tmp_path / name)} for name in ("subject", "class")]
    subject, prior = map(make_dataset, options)
    assert set(prior.captions("train")) == {"a pattern"} and set(subject.captions("train")) == {"my pattern"}
    images = np.stack([prior.image("train", index) for index in range(4)])
    np.testing.assert_array_equal(np.sort(images, 0), np.sort(pipeline.generate(["a pattern"], n=4), 0))

    def loss(dataset: Dataset, count: int) -> float:
        batch = next(iter(Loader(dataset, pipeline.encoder, batch_size=count).training(seed=1)))
        return float(pipeline.evaluate(batch, batch_size=count, verbose=0, return_dict=True)["loss"])

    pipeline.compile("sgd")
    mixed = loss(mixture({**options[0], "weight": 1}, {**options[1], "weight": weight}), 24)
    expected = loss(subject, 2) + weight * loss(prior, 4)
    np.testing.assert_allclose(mixed, expected / (1 + weight), rtol=1e-5)


def test_nested_mixtures() -> None:
    inner = {"name": "mixture", "datasets": [SHAPES, {**SHAPES, "seed": 1}]}
    nested = mixture(inner, {**SHAPES, "seed": 2})
    flat = Mixture(datasets=({**SHAPES}, {**SHAPES, "seed": 1}, {**SHAPES, "seed": 2}))
    assert list(nested.captions("train")) == list(flat.captions("train"))
