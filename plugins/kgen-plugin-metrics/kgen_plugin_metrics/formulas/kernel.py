"""The squared maximum mean discrepancy with a polynomial kernel."""

from __future__ import annotations

import numpy as np

from kgen import DataError


def kernel_distance(
    features: np.ndarray, reference: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Returns the mean and standard deviation of the squared maximum mean discrepancy over random subsets.

    The kernel is k(x, y) = (x^T y / D + 1)^3, and the estimate is unbiased (Gretton et al. 2012, equation 3;
    Binkowski et al. 2018, section 4). The subsets are those of torch-fidelity for the same seed.

    Args:
        features: (N, D), of generated images.
        reference: (M, D), of real images.
        subsets: Number of subsets. If both sets have exactly `subset_size` images, there is only one.
        subset_size: Number of different images in a subset, from each set.
        seed: Seed of the choice of subsets.

    Raises:
        DataError: there are fewer images than `subset_size`.
    """
    if min(len(features), len(reference)) < subset_size:
        raise DataError(
            f"a subset of {subset_size:,} images cannot be taken from {len(features):,} generated and "
            f"{len(reference):,} real images"
        )
    random = np.random.RandomState(seed)
    found = []
    everything = len(features) == len(reference) == subset_size
    for _ in range(1 if everything else subsets):
        x = features[random.choice(len(features), subset_size, replace=False)].astype(np.float64)
        y = reference[random.choice(len(reference), subset_size, replace=False)].astype(np.float64)
        found.append(_discrepancy(x, y))
    return float(np.mean(found)), float(np.std(found))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate for x and y, each (m, D)."""
    m = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2.0 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3)
