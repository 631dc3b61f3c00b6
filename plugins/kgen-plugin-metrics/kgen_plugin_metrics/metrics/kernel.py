"""The squared maximum mean discrepancy of features, and KID, which is that of the Inception network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kgen import DataError
from kgen_plugin_metrics.features.inception import Implementation
from kgen_plugin_metrics.formulas.kernel import kernel_distance
from kgen_plugin_metrics.metrics.base import DEFAULT, Choice, RowMetric, inception

Subsets = Annotated[int, Field(ge=1, le=1000)]
SubsetSize = Annotated[int, Field(ge=2, le=10_000)]


class _Kernel(RowMetric):
    """Compares features by their squared maximum mean discrepancy with a polynomial kernel of degree 3."""

    better: ClassVar[Literal["higher", "lower"] | None] = "lower"
    headline: ClassVar[str | None] = "distance"
    min_images = 2
    min_references = 2

    subsets: int
    subset_size: int
    seed: int

    def _numbers(self) -> Mapping[str, float]:
        features, reference = self._rows.all(), self._references()
        if len(reference) < 2:
            raise DataError(f"{type(self).__name__} needs at least 2 reference images, but there is only 1")
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
        features: Choice = DEFAULT,
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
