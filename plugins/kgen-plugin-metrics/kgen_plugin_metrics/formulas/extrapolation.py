"""Extrapolates the Fréchet distance to infinitely many images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kgen import DataError
from kgen_plugin_metrics.formulas.frechet import frechet_distance
from kgen_plugin_metrics.formulas.moments import Moments

POINTS = 15
"""Number of subsets, as in the paper."""


class Extrapolation(NamedTuple):
    """A straight line that is fitted to the distances for several numbers of images.

    Args:
        distance: The value of the line for infinitely many images.
        error: The standard error of that value, from the deviations of the distances from the line.
        counts: The number of images of each subset.
        distances: The distance of each subset.
    """

    distance: float
    error: float
    counts: tuple[int, ...]
    distances: tuple[float, ...]


def distance_of_infinitely_many(
    features: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    *,
    smallest: int = 5000,
    points: int = POINTS,
    seed: int = 0,
) -> Extrapolation:
    """Extrapolates the Fréchet distance to infinitely many generated images (Chong and Forsyth 2020, section 3.1).

    The bias of the distance is about proportional to 1/N. A line in 1/N is fitted to the distances of random subsets
    of `smallest` to N images. Its value at 1/N = 0 is the result. The bias from the number of real images remains.

    Args:
        features: (N, D), of generated images.
        mean, covariance: (D,) and (D, D), of real images.
        smallest: Number of images in the smallest subset. It should be larger than D.
        points: Number of subsets.
        seed: Seed of the choice of subsets.

    Raises:
        DataError: there are no more than `smallest` images, or fewer than 3 subsets.
    """
    if len(features) <= smallest or smallest < 2 or points < 3:
        raise DataError(
            f"to extrapolate from {smallest:,} images and more, there must be more images than {len(features):,}, and "
            "at least 3 subsets"
        )
    random = np.random.default_rng(seed)
    counts = np.linspace(smallest, len(features), points).astype(int)
    distances = []
    for count in counts:
        chosen = Moments.of(features[random.permutation(len(features))[:count]])
        distances.append(frechet_distance(chosen.mean, chosen.covariance, mean, covariance))
    design = np.stack([np.ones(points), 1.0 / counts], axis=1)  # (points, 2)
    line, *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    variance = np.square(distances - design @ line).sum() / (points - 2)
    error = float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
    return Extrapolation(float(line[0]), error, tuple(map(int, counts)), tuple(distances))
