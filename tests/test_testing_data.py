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

    def __call__(self, images: Any, prompts: Any, split: Any, dataset: Any) -> dict[str, float]:
        captions = list(dataset.captions(split))
        real = np.stack([dataset.image(split, captions.index(prompt)) for prompt in prompts])
        return {"exact": float((real == images).mean())}


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
        "test_images_are_what_the_space_says",
        {"image": lambda self, split, index: Colors.image(self, split, index) / 255},
        "uint8",
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


def writing(self: Any, images: Any, *given: Any) -> dict[str, float]:
    images[:] = 0
    return {"exact": 0.0}


def test_broken_metric_fails() -> None:
    attributes = {"dataset": lambda self: Colors(), "real": {"exact": (1.0, 1.0)}}
    half = type("Half", (Exact,), {"__call__": lambda self, *a: {"exact": Exact.__call__(self, *a)["exact"] / 2}})
    fails(MetricConformance, "test_real_images_score_as_they_must", half, "must lie between", **attributes)
    none = type("Nothing", (Exact,), {"__call__": lambda self, *a: {"exact": float("nan")}})
    fails(MetricConformance, "test_scores_are_named_numbers", none, "finite number", **attributes)
    first = type("First", (Exact,), {"__call__": lambda self, images, *a: {"exact": float(images[0, 0, 0, 0])}})
    fails(MetricConformance, "test_order_does_not_matter", first, "in another order", **attributes)
    fails(
        MetricConformance,
        "test_scores_are_named_numbers",
        type("Writes", (Exact,), {"__call__": writing}),
        "writes to",
        **attributes,
    )
