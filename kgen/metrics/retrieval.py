"""Is the real picture that a generated one is nearest to the one it was asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kgen.components.dataset import Dataset, Split
from kgen.components.metric import Metric

CHUNK = 64


class Retrieval(Metric):
    """R@K: the share of pictures among whose K nearest real pictures one has the prompt as its caption.

    The distance is the mean squared error of pixels; all splits of the dataset are searched, whatever split the prompts
    come from. Meant for datasets with few pictures a caption.

    Args:
        k: The values of K.
    """

    def __init__(self, *, k: tuple[int, ...] = (1, 5)) -> None:
        if not k or min(k) < 1:
            raise ValueError(f"k must be positive numbers, not {k}")
        self.k = k

    def __call__(
        self, images: np.ndarray, prompts: Sequence[str], split: Split, dataset: Dataset
    ) -> Mapping[str, float]:
        gallery, captions = _gallery(dataset)
        largest = min(max(self.k), len(captions))
        hits = np.zeros(len(self.k))
        for start in range(0, len(images), CHUNK):
            nearest = _nearest(images[start : start + CHUNK], gallery, largest)  # (n, K)
            for row, prompt in zip(nearest, prompts[start : start + CHUNK], strict=True):
                found = [captions[index] == prompt for index in row]
                hits += [any(found[:k]) for k in self.k]
        return {f"R@{k}": float(hit / len(images)) for k, hit in zip(self.k, hits, strict=True)}


def _gallery(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Every picture as a row of float32 (N, height * width * channels), and its caption."""
    rows, captions = [], []
    splits: tuple[Split, ...] = ("train", "validation", "holdout")
    for split in splits:
        for index, caption in enumerate(dataset.captions(split)):
            rows.append(dataset.image(split, index).reshape(-1))
            captions.append(caption)
    return np.stack(rows).astype(np.float32), captions


def _nearest(images: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` nearest rows, nearest first: (n, count)."""
    queries = images.reshape(len(images), -1).astype(np.float32)
    distances = (gallery**2).sum(1) - 2.0 * queries @ gallery.T  # plus |query|^2, the same for a whole row
    return np.argsort(distances, axis=1, kind="stable")[:, :count]
