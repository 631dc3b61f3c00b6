"""The conformance kits of datasets and metrics: pass what is right, and fail each that breaks one rule."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from kit_checks import fails

import kgen
from kgen import Space
from kgen.testing import DatasetConformance, MetricConformance


class Colors(kgen.Dataset):
    """Images of one color each."""

    def __init__(self, *, size: int = 4) -> None:
        self.size = size

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: str) -> list[str]:
        return {"train": ["red", "green", "blue"], "validation": [], "holdout": ["white"]}[split]

    def image(self, split: str, index: int) -> np.ndarray:
        color = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
        caption = self.captions(split)[index]
        return np.broadcast_to(np.array(color[caption], np.uint8), self.image_space.shape).copy()


class Exact(kgen.Metric):
    """Share of pixels as in the first training image of the prompt."""

    def update(self, batch: kgen.GeneratedImages) -> None:
        captions = list(self.dataset.captions(self.split))
        real = np.stack([self.dataset.image(self.split, captions.index(prompt)) for prompt in batch.prompts])
        self.add(exact=(real == batch.images).sum(), pixels=real.size)

    def compute(self) -> dict[str, float]:
        return {"exact": float(self.sums["exact"] / self.sums["pixels"])}


class Pairs(kgen.Metric):
    """Share of pixels as in the reference of each image."""

    pairs = True

    def update(self, batch: kgen.GeneratedImages) -> None:
        assert batch.references is not None
        self.add(exact=(batch.references == batch.images).sum(), pixels=batch.images.size)

    def compute(self) -> dict[str, float]:
        return {"exact": float(self.sums["exact"] / self.sums["pixels"])}


class TestColors(DatasetConformance):
    def build(self) -> Colors:
        return Colors()


class TestExact(MetricConformance):
    real: ClassVar = {"exact": (1.0, 1.0)}
    noise: ClassVar = {"exact": (0.0, 0.1)}

    def build(self) -> Exact:
        return Exact()

    def dataset(self) -> Colors:
        return Colors()


class TestPairs(TestExact):
    def build(self) -> Pairs:  # type: ignore[override]
        return Pairs()


def colors(**members: Any) -> Any:
    return lambda: type("Broken", (Colors,), members)()


def counting(self: Any, split: str, index: int) -> np.ndarray:
    self.reads = getattr(self, "reads", 0) + 1
    return Colors.image(self, split, index) // np.uint8(self.reads)


def shared(self: Any, split: str, index: int) -> np.ndarray:
    cache = self.__dict__.setdefault("cache", {})
    return cache.setdefault((split, index), Colors.image(self, split, index))


def overlapping(self: Any, split: str) -> list[str]:
    return ["red", "white"] if split != "validation" else []


def repeated(self: Any, split: str) -> list[str]:
    return [] if split == "holdout" else ["red", "green"]


DATASETS = [
    ("test_fingerprint_follows_the_options", {"fingerprint": lambda self: "same"}, "the fingerprint is the same"),
    ("test_reading_is_deterministic", {"image": counting}, "read again"),
    ("test_reading_is_deterministic", {"image": shared}, "after its array was written to"),
    ("test_splits_are_disjoint", {"captions": overlapping}, "held out"),
    ("test_splits_are_disjoint", {"captions": repeated}, "in 'train' too"),
    ("test_captions_are_texts", {"captions": lambda self, split: []}, "is empty"),
    (
        "test_images_are_in_the_space",
        {"image": lambda self, split, index: Colors.image(self, split, index) / 255},
        "uint8",
    ),
    (
        "test_decoding_makes_the_same_images",
        {"decodes_elsewhere": True, "decoding": lambda self, split, index, view: (np.zeros, (4, 4, 3), np.uint8)},
        r"decoding\('train', 0, None\) returns another image",
    ),
    ("test_a_copy_reads_the_same", {}, "Broken cannot be sent to worker processes"),
    ("test_a_copy_reads_the_same", {"__reduce__": lambda self: (Colors, (), {"size": 8})}, "has another fingerprint"),
    (
        "test_a_copy_reads_the_same",
        {
            "__reduce__": lambda self: (Colors, ()),
            "fingerprint": lambda self: Colors().fingerprint(),
            "image": lambda self, split, index: 255 - Colors.image(self, split, index),
        },
        r"has another image \('train', 0\)",
    ),
    (
        "test_fingerprint_is_stable",
        {"fingerprint": lambda self: str(id(object.__new__(object))) + str(np.random.default_rng().random())},
        "two fingerprints",
    ),
]


@pytest.mark.parametrize(("check", "members", "match"), DATASETS, ids=[f"{c}-{m}" for c, _, m in DATASETS])
def test_broken_dataset_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DatasetConformance, check, colors(**members), match)


def metric(**members: Any) -> Any:
    return lambda: type("Broken", (Exact,), members)()


def half(self: Any) -> dict[str, float]:
    return {"exact": Exact.compute(self)["exact"] / 2}


def first(self: Any, batch: Any) -> None:
    self.add(exact=batch.images[0, 0, 0, 0] * len(batch.images), pixels=len(batch.images))


def mean_of_batches(self: Any, batch: Any) -> None:
    before = dict(self.sums)
    Exact.update(self, batch)
    share = (self.sums["exact"] - before.get("exact", 0)) / (self.sums["pixels"] - before.get("pixels", 0))
    self.sums = {"exact": before.get("exact", 0) + share, "pixels": before.get("pixels", 0) + 1}


def forgetful(self: Any, state: Any) -> None:
    self.sums = dict(state)


def remembering(self: Any, dataset: Any, split: Any) -> None:
    before = getattr(self, "sums", {})
    kgen.Metric.start(self, dataset, split)
    self.sums = {name: 2 * value for name, value in before.items() if name == "exact"}


def writing(self: Any, batch: Any) -> None:
    batch.images[:] = 0


def next_reference(self: Any, batch: Any) -> None:
    Pairs.update(self, kgen.GeneratedImages(batch.images, batch.prompts, np.roll(batch.references, 1, axis=0)))


METRICS = [
    ("test_scores_of_real_images_are_in_bounds", {"compute": half}, "must be between"),
    ("test_scores_are_named_numbers", {"compute": lambda self: {"exact": float("nan")}}, "finite number"),
    ("test_order_does_not_matter", {"update": first}, "in another order"),
    ("test_scores_are_named_numbers", {"update": writing}, "writes to"),
    ("test_scores_are_named_numbers", {"start": remembering}, "start must forget"),
    ("test_sizes_of_batches_do_not_matter", {"update": mean_of_batches}, "in batches of 2"),
    ("test_merged_workers_measure_the_same", {"merge": forgetful}, "shared the images"),
    ("test_merged_workers_measure_the_same", {"state": lambda self: {"exact": [0.0]}}, "arrays of numbers"),
]


@pytest.mark.parametrize(("check", "members", "match"), METRICS, ids=[f"{c}-{m}" for c, _, m in METRICS])
def test_broken_metric_fails(check: str, members: dict[str, Any], match: str) -> None:
    attributes = {"dataset": lambda self: Colors(), "real": {"exact": (1.0, 1.0)}}
    fails(MetricConformance, check, metric(**members), match, **attributes)


def test_a_metric_of_pairs_that_mixes_them_up_fails() -> None:
    def build() -> Pairs:
        return type("Broken", (Pairs,), {"update": next_reference})()

    attributes = {"dataset": lambda self: Colors(), "real": {"exact": (1.0, 1.0)}}
    fails(MetricConformance, "test_scores_of_real_images_are_in_bounds", build, "must be between", **attributes)


def test_references_are_like_the_images_and_read_only() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    batch = kgen.GeneratedImages(images, ["a", "b"], images)
    assert batch.references is not None and not batch.references.flags.writeable and images.flags.writeable
    for references in (images[:1], images.astype(np.float32)):
        with pytest.raises(ValueError, match=r"images are uint8 \(2, 4, 4, 3\), but references are"):
            kgen.GeneratedImages(images, ["a", "b"], references)


def test_a_metric_of_the_older_contract_is_refused_with_advice() -> None:
    with pytest.raises(kgen.PluginError, match=r"Old: a metric is no longer called .* write update\(batch\)"):
        type("Old", (kgen.Metric,), {"__call__": lambda self, images, prompts, split, dataset: {}})
