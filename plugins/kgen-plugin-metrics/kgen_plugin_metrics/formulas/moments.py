"""The mean and the covariance of a stream of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kgen import DataError

MIN_ROWS = 512
"""Least number of rows that are added at once: one large matrix product is faster than many small ones."""


@dataclass(frozen=True)
class Moments:
    """The number, the mean and the scatter of features, in float64. The sum of two describes both sets together.

    Args:
        count: Number N of images.
        mean: (D,).
        scatter: (D, D), the sum over images of (x - mean) (x - mean)^T.
    """

    names: ClassVar[tuple[str, ...]] = ("count", "mean", "scatter")

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, dim: int) -> Moments:
        """The moments of no images."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of features (N, D)."""
        if not np.isfinite(features).all():
            raise DataError("metrics: the network computed features that are not finite: check its weights")
        if not len(features):
            return cls.none(features.shape[1])
        mean = features.mean(0, dtype=np.float64)
        centered = features - mean  # (N, D), float64
        return cls(len(features), mean, centered.T @ centered)

    def __add__(self, other: Moments) -> Moments:
        """Merges two sets (Chan, Golub and LeVeque 1979, *Updating formulae and a pairwise algorithm*, eq. 2.1)."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean  # (D,)
        scatter = np.outer(apart, apart)
        scatter *= self.count * other.count / count
        scatter += self.scatter
        scatter += other.scatter
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (D, D); raises DataError if there are fewer than 2 images."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, not {self.count}: use more images")
        return self.scatter / (self.count - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The moments as arrays, which `from_arrays` reads."""
        return dict(zip(self.names, (np.array(self.count), self.mean, self.scatter), strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Reads the arrays of `arrays`."""
        return cls(int(arrays["count"]), np.asarray(arrays["mean"]), np.asarray(arrays["scatter"]))


class MomentStream:
    """Adds features batch by batch. Its memory does not grow.

    Args:
        dim: Number D of features of an image.
    """

    def __init__(self, dim: int) -> None:
        self._added = Moments.none(dim)
        self._waiting: list[np.ndarray] = []
        self._rows = max(MIN_ROWS, dim // 2)

    def add(self, features: np.ndarray) -> None:
        """Adds features (B, D)."""
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= self._rows:
            self.moments()

    def moments(self) -> Moments:
        """The moments of all features so far."""
        if self._waiting:
            self._added = self._added + Moments.of(np.concatenate(self._waiting))
            self._waiting = []
        return self._added

    def merge(self, moments: Moments) -> None:
        """Adds the moments of other features."""
        self._added = self.moments() + moments
