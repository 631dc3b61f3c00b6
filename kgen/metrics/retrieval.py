"""Retrieval: whether the nearest real image has the prompt of a generated image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.metric import GeneratedImages, Metric, State

MANY = 10
"""Images per caption above which the scores say little."""

CHUNK_BYTES = 2**25
"""Size of a chunk of real images, in float64."""

WAITING_BYTES = 2**28
"""Size of the generated images, in float64, that are collected before the real images are read for all of them."""


class Retrieval(Metric):
    """R@K: the share of generated images whose prompt is the caption of one of the K nearest real images.

    The distance is the mean squared error of pixels. All splits of the dataset are searched, independent of the split
    of the prompts. Real images at the same distance count as equally near, so that a prompt is not missed because
    another caption has an identical image. The metric is meant for datasets with few images per caption.

    Args:
        k: The values of K.
    """

    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def __init__(self, *, k: tuple[int, ...] = (1, 5)) -> None:
        if not k or min(k) < 1:
            raise ValueError(f"k must be positive numbers, not {k}")
        self.k = k
        self._waiting: list[GeneratedImages] = []

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        captions = [caption for split in SPLITS for caption in dataset.captions(split)]
        different = len(set(captions))
        if len(captions) <= MANY * different:
            return ()
        return (
            f"retrieval compares an image with all images of its caption, and here {len(captions):,} images share "
            f"{different:,} captions: R@K then says little about single images; choose another metric",
        )

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._waiting = []

    def update(self, batch: GeneratedImages) -> None:
        self._waiting.append(batch)
        if 8 * sum(waiting.images.size for waiting in self._waiting) >= WAITING_BYTES:
            self._search()

    def state(self) -> State:
        self._search()
        return super().state()

    def compute(self) -> Mapping[str, float]:
        self._search()
        return {f"R@{k}": float(self.sums[f"R@{k}"] / self.sums["count"]) for k in self.k}

    def _search(self) -> None:
        """Reads the real images, and counts the collected images that are near enough to an image of their prompt."""
        if not self._waiting:
            return
        images = np.concatenate([batch.images for batch in self._waiting])
        wanted = np.array([prompt for batch in self._waiting for prompt in batch.prompts], object)
        self._waiting = []
        queries = images.reshape(len(images), -1).astype(np.float64)  # (N, D)
        own = np.full(len(queries), np.inf)  # distance to the nearest image of the prompt
        others = np.full((len(queries), max(self.k)), np.inf)  # the smallest distances to images of other captions
        for reals, captions in _chunks(self.dataset):
            distances = _distances(queries, reals)  # (N, M)
            same = wanted[:, None] == captions[None, :]
            own = np.minimum(own, np.where(same, distances, np.inf).min(1))
            others = np.hstack([others, np.where(same, np.inf, distances)])
            others = np.partition(others, max(self.k) - 1, axis=1)[:, : max(self.k)]
        nearer = (others < own[:, None]).sum(1)
        found = {f"R@{k}": ((nearer < k) & np.isfinite(own)).sum() for k in self.k}
        self.add(count=len(queries), **found)


def _chunks(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields chunks of all images of all splits, float64 (M, D), with their captions (M,)."""
    count = max(1, CHUNK_BYTES // (8 * dataset.image_space.size))
    for split in SPLITS:
        captions = np.array(dataset.captions(split), object)
        for start in range(0, len(captions), count):
            rows = range(start, min(start + count, len(captions)))
            reals = np.stack([dataset.image(split, row).reshape(-1) for row in rows])
            yield reals.astype(np.float64), captions[start : start + count]


def _distances(queries: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """Squared distances (N, M), which are exact because all are integers below 2^53."""
    squares = np.square(queries).sum(1)[:, None] + np.square(reals).sum(1)[None, :]
    return np.asarray(squares - 2.0 * queries @ reals.T)
