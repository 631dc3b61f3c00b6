"""The Fréchet distance of two Gaussians."""

from __future__ import annotations

import numpy as np


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two Gaussians (Dowson and Landau 1982, equation 4; Heusel et al. 2017).

        d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    With C = R R^T, the last trace is the sum of the singular values of R1^T R2, for any such R. This form needs no root
    of a matrix that is not symmetric, and holds also where covariances have no inverse, such as those of few images:
    then R has as few columns as the rank.

    Args:
        mean, other_mean: (D,), float64.
        covariance, other_covariance: (D, D), float64, symmetric.

    Returns:
        The distance, not negative: a sum that is below 0 by rounding is 0.
    """
    apart = mean - other_mean
    common = np.linalg.svd(_root(covariance).T @ _root(other_covariance), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2.0 * common))


def _root(covariance: np.ndarray) -> np.ndarray:
    """R, (D, rank), with R R^T = covariance."""
    smallest = len(covariance) * np.finfo(np.float64).eps
    try:
        triangle = np.linalg.cholesky(covariance)
        pivots = np.square(np.diagonal(triangle))
        if pivots.min() > smallest * pivots.max():
            return np.asarray(triangle)
    except np.linalg.LinAlgError:  # the rank is below D
        pass
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values[-1], 0.0) * smallest
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
