"""The requirements of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.metric import GeneratedImages, Metric, measure
from kgen.testing.configuration import ConfigurationConformance

Bounds = Mapping[str, tuple[float, float]]


class MetricConformance(ConfigurationConformance):
    """Checks a metric. Subclass it, and implement `build` (the metric) and `dataset` (a small dataset for it).

    `real` and `noise` are the bounds of the scores for the dataset's own images, and for noise. The references of a
    metric of pairs are always the dataset's own images.
    """

    split: ClassVar[Split] = "train"

    count: ClassVar[int] = 64
    """Largest number of the dataset's images to score."""

    real: ClassVar[Bounds] = {}
    """Smallest and largest score for the dataset's own images, by the name of the score."""

    noise: ClassVar[Bounds] = {}
    """Smallest and largest score for images of uniform noise, by the name of the score."""

    def dataset(self) -> Dataset:
        raise NotImplementedError(f"{type(self).__name__}.dataset must return a small dataset")

    def _score(
        self, metric: Metric, images: np.ndarray, dataset: Dataset, order: Sequence[int] | None = None, size: int = 0
    ) -> dict[str, float]:
        """The scores of the metric, with batches of `size`, or with all images in one batch."""
        return dict(measure(metric, dataset, self.split, self._batches(metric, images, dataset, order, size)))

    def _batches(
        self, metric: Metric, images: np.ndarray, dataset: Dataset, order: Sequence[int] | None = None, size: int = 0
    ) -> list[GeneratedImages]:
        """Batches of the images, the first of which belongs to the first caption, in the order given."""
        rows = range(len(images)) if order is None else order
        captions, size = dataset.captions(self.split), size or len(images)
        references = self._real(dataset) if metric.pairs else None
        return [
            GeneratedImages(
                images[chosen], [captions[row] for row in chosen], None if references is None else references[chosen]
            )
            for chosen in (list(rows[start : start + size]) for start in range(0, len(rows), size))
        ]

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
        try:
            scores = self._score(metric, images, dataset)
        except ValueError as error:
            assert "read-only" not in str(error), f"{type(metric).__name__} writes to the images that it is given"
            raise
        assert scores, f"{type(metric).__name__} returns no score"
        assert metric.headline is None or metric.headline in scores, (
            f"{type(metric).__name__}.headline is '{metric.headline}', which is not one of its scores {sorted(scores)}"
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
        again = self._score(metric, images, dataset)
        assert again == scores, f"after another start the scores are {again}, not {scores}: start must forget all"

    def test_order_does_not_matter(self) -> None:
        """Checks that scores do not depend on the order of the images."""
        dataset = self.dataset()
        images = self._mixed(dataset)
        first = self._score(self.build(), images, dataset)
        second = self._score(self.build(), images, dataset, order=range(len(images))[::-1])
        _same(first, second, "in another order")

    def test_sizes_of_batches_do_not_matter(self) -> None:
        """Checks that scores do not depend on the batch size, also if the last batch is smaller."""
        dataset = self.dataset()
        images = self._mixed(dataset)
        first = self._score(self.build(), images, dataset)
        for size in (1, len(images) // 2 + 1):
            _same(first, self._score(self.build(), images, dataset, size=size), f"in batches of {size}")

    def test_merged_workers_measure_the_same(self) -> None:
        """Checks that scores do not change if three metrics share the images, one of them gets none, and they merge."""
        dataset = self.dataset()
        images = self._mixed(dataset)
        first = self._score(self.build(), images, dataset)
        batches = self._batches(self.build(), images, dataset, size=len(images) // 3 + 1)
        nothing: list[GeneratedImages] = []
        for shares in ((batches[:1], nothing, batches[1:]), (nothing, batches[1:], batches[:1])):
            one, *others = workers = [self.build() for _ in shares]
            for worker, share in zip(workers, shares, strict=True):
                worker.start(dataset, self.split)
                for batch in share:
                    worker.update(batch)
            for other in others:
                one.merge(_sent(other))
            _same(first, one.compute(), "where workers have shared the images and merged")

    def _mixed(self, dataset: Dataset) -> np.ndarray:
        """The dataset's own images, half of them replaced by noise, so that scores are neither best nor worst."""
        images = self._real(dataset)
        images[::2] = np.random.default_rng(0).integers(0, 256, images[::2].shape, dtype=np.uint8)
        return images

    def test_scores_of_real_images_are_in_bounds(self) -> None:
        dataset = self.dataset()
        self._check(self._score(self.build(), self._real(dataset), dataset), self.real, "the dataset's own images")

    def test_scores_of_noise_are_in_bounds(self) -> None:
        dataset = self.dataset()
        shape = self._real(dataset).shape
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self._check(self._score(self.build(), noise, dataset), self.noise, "noise")

    def _check(self, scores: Mapping[str, Any], bounds: Bounds, what: str) -> None:
        for name, (least, greatest) in bounds.items():
            assert name in scores, f"there is no score '{name}' among {sorted(scores)}"
            assert least <= scores[name] <= greatest, (
                f"'{name}' of {what} is {scores[name]}, but must be between {least} and {greatest}"
            )


def _same(first: Mapping[str, float], second: Mapping[str, float], how: str) -> None:
    for name, value in first.items():
        assert np.isclose(value, second[name], rtol=1e-5, atol=1e-8), (
            f"'{name}' is {value}, but {second[name]} for the same images and prompts {how}"
        )


def _sent(metric: Metric) -> dict[str, np.ndarray]:
    """The state of a metric, as another process would receive it."""
    state = metric.state()
    for name, array in state.items():
        assert isinstance(array, np.ndarray) and array.dtype.kind in "fiub", (
            f"state() contains {type(array).__name__} '{name}', but must contain arrays of numbers, which can be sent"
        )
    return {name: array.copy() for name, array in state.items()}
