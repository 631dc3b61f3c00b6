"""What every metric must fulfil."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.metric import Metric
from kgen.testing.configuration import ConfigurationConformance

Bounds = Mapping[str, tuple[float, float]]


class MetricConformance(ConfigurationConformance):
    """Checks a metric: subclass it, and give `build` (the metric) and `dataset` (a small one that it can score).

    `real` and `noise` say what it must find for the dataset's own images, and for noise.
    """

    split: ClassVar[Split] = "train"

    count: ClassVar[int] = 64
    """How many of the dataset's images to score."""

    real: ClassVar[Bounds] = {}
    """By the score's name the least and the greatest value for the dataset's own images."""

    noise: ClassVar[Bounds] = {}
    """The same for images of uniform noise."""

    def dataset(self) -> Dataset:
        raise NotImplementedError(f"{type(self).__name__}.dataset must return a small dataset")

    def _score(self, metric: Metric, images: np.ndarray, dataset: Dataset) -> dict[str, float]:
        prompts = list(dataset.captions(self.split))[: len(images)]
        return dict(metric(images, prompts, self.split, dataset))

    def _real(self, dataset: Dataset) -> np.ndarray:
        count = min(self.count, len(dataset.captions(self.split)))
        return np.stack([dataset.image(self.split, index) for index in range(count)])

    def test_dataset_fits(self) -> None:
        metric, dataset = self.build(), self.dataset()
        assert metric.requires is None or isinstance(dataset, metric.requires), (
            f"{type(metric).__name__} needs a dataset of {metric.requires}, not {type(dataset)}"
        )

    def test_scores_are_named_numbers(self) -> None:
        metric, dataset = self.build(), self.dataset()
        images = self._real(dataset)
        kept = images.copy()
        scores = self._score(metric, images, dataset)
        assert scores, f"{type(metric).__name__} returns no score"
        assert metric.headline is None or metric.headline in scores, (
            f"{type(metric).__name__}.headline is '{metric.headline}', which is none of its scores {sorted(scores)}"
        )
        for name, value in scores.items():
            assert isinstance(name, str) and np.isfinite(float(value)), (
                f"{name!r} must be a finite number, not {value!r}"
            )
        assert np.array_equal(images, kept), f"{type(metric).__name__} writes to the images that it is given"
        for name, value in scores.items():
            assert not isinstance(value, np.ndarray) or value.ndim == 0, f"{name!r} must be one number, not {value!r}"
        again = self._score(self.build(), images, dataset)
        assert again == scores, f"the same images have two scores, {scores} and {again}"

    def test_order_does_not_matter(self) -> None:
        """The scores are the same for the images, each with its prompt, in another order."""
        dataset = self.dataset()
        images, captions = self._real(dataset), list(dataset.captions(self.split))
        order = np.arange(len(images))[::-1]
        first = self._score(self.build(), images, dataset)
        second = dict(self.build()(images[order], [captions[i] for i in order], self.split, dataset))
        for name, value in first.items():
            assert np.isclose(value, second[name], rtol=1e-5, atol=1e-8), (
                f"'{name}' is {value}, but {second[name]} for the same images and prompts in another order"
            )

    def test_real_images_score_as_they_must(self) -> None:
        dataset = self.dataset()
        self._check(self._score(self.build(), self._real(dataset), dataset), self.real, "the dataset's own images")

    def test_noise_scores_as_it_must(self) -> None:
        dataset = self.dataset()
        shape = self._real(dataset).shape
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self._check(self._score(self.build(), noise, dataset), self.noise, "noise")

    def _check(self, scores: Mapping[str, Any], bounds: Bounds, what: str) -> None:
        for name, (least, greatest) in bounds.items():
            assert name in scores, f"there is no score '{name}' among {sorted(scores)}"
            assert least <= scores[name] <= greatest, (
                f"'{name}' of {what} is {scores[name]}, but must lie between {least} and {greatest}"
            )
