"""Collects the features of all images, for numbers that cannot be computed from sums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from kgen import DataError


class Rows:
    """The features, or the logits, of all images, one row per image, in an order that depends on the images alone.

    The memory grows with the number of images: 10,000 rows of 2,048 numbers take 80 MB. Rows are sorted by hashes of
    the images' pixels, so that random subsets depend neither on the order of the images, nor on the batches, nor on
    the workers.
    """

    names = ("rows", "hashes")

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []

    def add(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Adds the rows (B, D) of images (B, H, W, C)."""
        self._rows.append(np.asarray(rows, np.float32))
        self._hashes.append(np.array([_hash(image) for image in images], np.uint64))

    def all(self) -> np.ndarray:
        """All rows, float32 (N, D).

        Raises:
            DataError: some numbers are not finite.
        """
        rows = np.concatenate(self._rows)
        if not np.isfinite(rows).all():
            raise DataError("metrics: the network computed numbers that are not finite: check its weights")
        return rows[np.argsort(np.concatenate(self._hashes), kind="stable")]

    def state(self) -> dict[str, np.ndarray]:
        """Arrays for `merge`; none before the first image."""
        return {name: np.concatenate(own) for name, own in zip(self.names, self._lists(), strict=True) if own}

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        """Adds the rows of other images."""
        for name, own in zip(self.names, self._lists(), strict=True):
            own += [state[name]] if name in state else []

    def _lists(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        return self._rows, self._hashes


def _hash(image: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest(), "little")
