"""The inception score, and its formula for other classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kgen_plugin_metrics.features.inception import Implementation
from kgen_plugin_metrics.formulas.inception_score import inception_score
from kgen_plugin_metrics.metrics.base import DEFAULT, Choice, RowMetric, inception

Splits = Annotated[int, Field(ge=1, le=1000)]


class _Score(RowMetric):
    """Scores the predicted probabilities of classes. It needs no reference images."""

    what: ClassVar[str] = "logits"
    better: ClassVar[Literal["higher", "lower"] | None] = "higher"
    headline: ClassVar[str | None] = "mean"

    splits: int
    seed: int

    def _numbers(self) -> Mapping[str, float]:
        mean, deviation = inception_score(self._rows.all(), splits=self.splits, seed=self.seed)
        return {"mean": mean, "deviation": deviation}

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        return {**super().protocol(), "splits": self.splits, "seed": self.seed}


class ClassifierScore(_Score):
    """The formula of the inception score, for any classifier. Higher is better.

    Args:
        features: The network: a `metrics.features` that has logits.
        splits: Number of parts of the images.
        seed: Seed of the division into parts.
    """

    def __init__(
        self,
        *,
        features: Choice = DEFAULT,
        splits: Splits = 10,
        seed: int = 2020,
    ) -> None:
        self.features, self.splits, self.seed = features, splits, seed
        self.min_images = splits
        self._use(features)


class InceptionScore(_Score):
    """The inception score (Salimans et al. 2016). Higher is better.

    Args:
        weights: The file with the public weights of the Inception network of 2015.
        implementation: The one whose numbers are computed: see the README.
        splits: Number of parts of the images.
        seed: Seed of the division into parts.
    """

    what: ClassVar[str] = "logits_unbiased"  # the first implementation left the last layer's bias out

    def __init__(
        self,
        *,
        weights: str,
        implementation: Implementation = "torch-fidelity",
        splits: Splits = 10,
        seed: int = 2020,
    ) -> None:
        self.weights, self.implementation, self.splits, self.seed = weights, implementation, splits, seed
        self.min_images = splits
        self._use(inception(weights, implementation))
