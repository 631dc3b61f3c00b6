"""Precision and recall, density and coverage: whether images lie among the nearest neighbors of other images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kgen import DataError

ROWS = 1024
"""Number of images whose distances to all others are in memory at the same time."""

EXACT = 1e-13
"""Squared distances below this share of the squared norms become 0, because rounding causes them."""


def precision_recall(features: np.ndarray, reference: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Returns precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), each from 0 to 1.

    Precision is the share of generated images that lie in the ball around any real image, whose radius is the distance
    to its k-th nearest real neighbor. For recall, the roles are exchanged.

    Args:
        features: (N, D), of generated images.
        reference: (M, D), of real images.
        k: Number of neighbors.

    Raises:
        DataError: a set has no more than k images.
    """
    _require_more_than(k, features, reference)
    return _covered(features, reference, _radii(reference, k)), _covered(reference, features, _radii(features, k))


def density_coverage(features: np.ndarray, reference: np.ndarray, *, k: int = 5) -> tuple[float, float]:
    """Returns density, 0 or more, and coverage, from 0 to 1 (Naeem et al. 2020, equations 3 and 4).

    Density is the mean number of balls around real images in which a generated image lies, divided by k. It is 1 for
    equal distributions, and may be larger. Coverage is the share of real images in whose ball any generated image lies.

    Args:
        features: (N, D), of generated images.
        reference: (M, D), of real images.
        k: Number of neighbors.

    Raises:
        DataError: there are no more than k real images.
    """
    _require_more_than(k, reference)
    radii = _radii(reference, k)
    inside, covered = 0, 0
    for rows, squares in _squared_distances(reference, features):
        inside += int((squares < radii[rows, None]).sum())
        covered += int((squares.min(1) < radii[rows]).sum())
    return inside / (k * len(features)), covered / len(reference)


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """The squared distances (N,) of points to their k-th nearest neighbors."""
    found = [np.partition(squares, k, axis=1)[:, k] for _, squares in _squared_distances(points, points)]
    return np.concatenate(found)  # the nearest is the point itself


def _covered(points: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> float:
    """The share of points (N, D) that lie in a ball around any center (M, D), given the squared radii (M,)."""
    return sum(int((squares <= radii).any(1).sum()) for _, squares in _squared_distances(points, centers)) / len(points)


def _squared_distances(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows of points and their squared distances (rows, N) to all others, in float64."""
    others = np.asarray(others, np.float64)
    norms = np.square(others).sum(1)
    for start in range(0, len(points), ROWS):
        own = np.asarray(points[start : start + ROWS], np.float64)
        sums = np.square(own).sum(1)[:, None] + norms
        squares = sums - 2.0 * own @ others.T
        yield slice(start, start + ROWS), np.where(squares > EXACT * sums, squares, 0.0)


def _require_more_than(k: int, *sets: np.ndarray) -> None:
    if (count := min(map(len, sets))) <= k:
        raise DataError(f"the {k} nearest neighbors of an image need more images than {count}: use more, or reduce k")
