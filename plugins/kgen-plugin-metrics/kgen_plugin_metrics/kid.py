"""The maximum mean discrepancy of features with a polynomial kernel, and KID, that of the Inception network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from kgen import DataError, OneOf
from kgen_plugin_metrics.base import DEFAULT, RowMetric, inception
from kgen_plugin_metrics.inception_features import Implementation
from kgen_plugin_metrics.reference import reference_features

Subsets = Annotated[int, Field(ge=1, le=1000)]
SubsetSize = Annotated[int, Field(ge=2, le=10_000)]


def kernel_distance(
    features: np.ndarray, reference: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Returns the mean and deviation of the squared maximum mean discrepancy over random subsets.

    The kernel is k(x, y) = (x^T y / D + 1)^3, and the estimate is unbiased (Gretton et al. 2012, equation 3;
    Binkowski et al. 2018, section 4). The subsets are those of torch-fidelity for the same seed.

    Args:
        features: (N, D), of generated images.
        reference: (M, D), of real images.
        subsets: Number of subsets.
        subset_size: Number of images in a subset, without repetition.
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
    for _ in range(subsets):
        x = features[random.choice(len(features), subset_size, replace=False)].astype(np.float64)
        y = reference[random.choice(len(reference), subset_size, replace=False)].astype(np.float64)
        found.append(_discrepancy(x, y))
    return float(np.mean(found)), float(np.std(found))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate for equally many x and y, (m, D)."""
    m = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2.0 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3)


class _Kernel(RowMetric):
    """Compares features by their maximum mean discrepancy."""

    better: ClassVar[Literal["higher", "lower"] | None] = "lower"
    headline: ClassVar[str | None] = "distance"
    min_images = 2

    subsets: int
    subset_size: int
    seed: int

    def _numbers(self) -> Mapping[str, float]:
        features = self._all()
        reference, source = reference_features(self._network, self.dataset, self._reference)
        self._source = f"{len(reference)} {source}"
        if len(reference) < 2:
            raise DataError(f"{type(self).__name__} needs at least 2 reference images, and here is 1")
        self._size = min(self.subset_size, len(features), len(reference))
        mean, deviation = kernel_distance(
            features, reference, subsets=self.subsets, subset_size=self._size, seed=self.seed
        )
        return {"distance": mean, "deviation": deviation}

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        size = getattr(self, "_size", self.subset_size)
        return {**super().protocol(), "subsets": self.subsets, "subset size": size, "seed": self.seed}


class KernelDistance(_Kernel):
    """The squared maximum mean discrepancy of any features. Lower is better.

    Args:
        features: The network: a `metrics.features`.
        reference: The split of the reference images, or a file PATH.npz with images "arr_0".
        subsets: Number of random subsets.
        subset_size: Number of images in a subset; of fewer images, all are taken.
        seed: Seed of the choice of subsets.
    """

    def __init__(
        self,
        *,
        features: Annotated[Any, OneOf("metrics.features")] = DEFAULT,
        reference: str = "train",
        subsets: Subsets = 100,
        subset_size: SubsetSize = 1000,
        seed: int = 2020,
    ) -> None:
        self.features, self.reference = features, reference
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self._use(features, reference)


class KID(_Kernel):
    """The kernel Inception distance (Binkowski et al. 2018). Lower is better.

    Args:
        weights: The file with the public weights of the Inception network of 2015.
        implementation: The one whose numbers are computed: see the README.
        reference: The split of the reference images, or a file PATH.npz with images "arr_0".
        subsets: Number of random subsets.
        subset_size: Number of images in a subset; of fewer images, all are taken.
        seed: Seed of the choice of subsets.
    """

    def __init__(
        self,
        *,
        weights: str,
        implementation: Implementation = "torch-fidelity",
        reference: str = "train",
        subsets: Subsets = 100,
        subset_size: SubsetSize = 1000,
        seed: int = 2020,
    ) -> None:
        self.weights, self.implementation, self.reference = weights, implementation, reference
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self._use(inception(weights, implementation), reference)
