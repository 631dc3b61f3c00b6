"""Precision and recall, and density and coverage, of any features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kgen_plugin_metrics.formulas.neighbors import density_coverage, precision_recall
from kgen_plugin_metrics.metrics.base import DEFAULT, Choice, RowMetric

Neighbors = Annotated[int, Field(ge=1, le=100)]


class _Neighbors(RowMetric):
    """Compares features by their nearest neighbors."""

    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def _compare(self, features: Any, reference: str, k: int) -> None:
        """Sets the options."""
        self.features, self.reference, self.k = features, reference, k
        self.min_images = self.min_references = k + 1
        self._use(features, reference)

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        return {**super().protocol(), "k": self.k}


class PrecisionRecall(_Neighbors):
    """Precision and recall (Kynkäänniemi et al. 2019), and their harmonic mean. Higher is better.

    Args:
        features: The network: a `metrics.features`.
        reference: The split of the reference images, or a file PATH.npz with images "arr_0".
        k: Number of neighbors.
    """

    def __init__(self, *, features: Choice = DEFAULT, reference: str = "train", k: Neighbors = 3) -> None:
        self._compare(features, reference, k)

    def _numbers(self) -> Mapping[str, float]:
        precision, recall = precision_recall(self._rows.all(), self._references(), k=self.k)
        harmonic = 2 * precision * recall / max(1e-5, precision + recall)
        return {"precision": precision, "recall": recall, "f_score": harmonic}


class DensityCoverage(_Neighbors):
    """Density and coverage (Naeem et al. 2020). Higher is better.

    Args:
        features: The network: a `metrics.features`.
        reference: The split of the reference images, or a file PATH.npz with images "arr_0".
        k: Number of neighbors.
    """

    def __init__(self, *, features: Choice = DEFAULT, reference: str = "train", k: Neighbors = 5) -> None:
        self._compare(features, reference, k)

    def _numbers(self) -> Mapping[str, float]:
        density, coverage = density_coverage(self._rows.all(), self._references(), k=self.k)
        return {"density": density, "coverage": coverage}
