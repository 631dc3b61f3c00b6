"""Is the real image that a generated one is nearest to the one it was asked for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.metric import Metric

MANY = 10
"""Images per caption above which the scores say little."""

CHUNK_BYTES = 2**25
"""Of real images that are compared at a time."""


class Retrieval(Metric):
    """R@K: the share of images among whose K nearest real images one has the prompt as its caption.

    The distance is the mean squared error of pixels; all splits of the dataset are searched, whatever split the prompts
    come from. Real images that are equally near count as the nearest together: a prompt is not missed because
    another caption has the very same image. Meant for datasets with few images a caption.

    Args:
        k: The values of K.
    """

    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def __init__(self, *, k: tuple[int, ...] = (1, 5)) -> None:
        if not k or min(k) < 1:
            raise ValueError(f"k must be positive numbers, not {k}")
        self.k = k

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        captions = [caption for split in SPLITS for caption in dataset.captions(split)]
        different = len(set(captions))
        if len(captions) <= MANY * different:
            return ()
        return (
            f"retrieval compares an image with all images of its caption, and here {len(captions):,} images share "
            f"{different:,} captions: R@K then says little about single images, choose another metric",
        )

    def __call__(
        self, images: np.ndarray, prompts: Sequence[str], split: Split, dataset: Dataset
    ) -> Mapping[str, float]:
        queries = images.reshape(len(images), -1).astype(np.float64)  # (N, D)
        wanted = np.array(prompts, object)
        own = np.full(len(queries), np.inf)  # distance to the nearest image of the prompt
        others = np.full((len(queries), max(self.k)), np.inf)  # the least distances to reals of other captions
        for reals, captions in _chunks(dataset):
            distances = _distances(queries, reals)  # (N, M)
            same = wanted[:, None] == captions[None, :]
            own = np.minimum(own, np.where(same, distances, np.inf).min(1))
            others = np.hstack([others, np.where(same, np.inf, distances)])
            others = np.partition(others, max(self.k) - 1, axis=1)[:, : max(self.k)]
        nearer = (others < own[:, None]).sum(1)
        return {f"R@{k}": float(np.mean((nearer < k) & np.isfinite(own))) for k in self.k}


def _chunks(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image of every split as a row (M, D) of float64, with the captions (M,); some at a time."""
    count = max(1, CHUNK_BYTES // (8 * dataset.image_space.size))
    for split in SPLITS:
        captions = np.array(dataset.captions(split), object)
        for start in range(0, len(captions), count):
            rows = range(start, min(start + count, len(captions)))
            reals = np.stack([dataset.image(split, row).reshape(-1) for row in rows])
            yield reals.astype(np.float64), captions[start : start + count]


def _distances(queries: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """Squared distances (N, M); exact, as all are whole numbers below 2^53."""
    squares = np.square(queries).sum(1)[:, None] + np.square(reals).sum(1)[None, :]
    return np.asarray(squares - 2.0 * queries @ reals.T)
