"""The Fréchet distance of two Gaussians."""

from __future__ import annotations

import numpy as np


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two Gaussians (Dowson and Landau 1982, equation 4; Heusel et al. 2017).

        d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    With C = R R^T, the trace of (C1 C2)^(1/2) is the sum of the singular values of R1^T R2, for any such R. This form
    needs no root of an asymmetric matrix. It also holds for covariances without an inverse, such as those of few
    images: R then has as many columns as the rank of C.

    Args:
        mean, other_mean: (D,), float64.
        covariance, other_covariance: (D, D), float64, symmetric.

    Returns:
        The squared distance, at least 0. A sum that is negative because of rounding becomes 0.
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
