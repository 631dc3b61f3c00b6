"""The inception score, and its formula for other classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from kgen import DataError, OneOf
from kgen_plugin_metrics.base import DEFAULT, RowMetric, inception
from kgen_plugin_metrics.inception_features import Implementation

Splits = Annotated[int, Field(ge=1, le=1000)]


def inception_score(logits: np.ndarray, *, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """Returns the mean and deviation over `splits` parts of exp(mean over images of KL(p(c | x) || p(c))).

    Salimans et al. 2016, section 4; p(c) is the mean of p(c | x) in the part. The parts are those of torch-fidelity
    for the same seed.

    Args:
        logits: (N, classes).
        splits: Number of parts.
        seed: Seed of the order of the images before they are divided; None: the given order.

    Raises:
        DataError: there are fewer images than parts.
    """
    count = len(logits)
    if count < splits:
        raise DataError(f"{count:,} images cannot be divided into {splits:,} parts")
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(count)]
    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # (N, classes)
    scores = []
    for i in range(splits):
        own = log_p[i * count // splits : (i + 1) * count // splits]
        p = np.exp(own)
        with np.errstate(divide="ignore", invalid="ignore"):  # a class that is 0 everywhere adds 0 log 0 = 0
            terms = np.where(p > 0, p * (own - np.log(p.mean(0))), 0.0)
        scores.append(np.exp(terms.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


class _Score(RowMetric):
    """Scores the probabilities of classes, without reference images."""

    what: ClassVar[str] = "logits"
    headline: ClassVar[str | None] = "mean"

    splits: int
    seed: int

    def _numbers(self) -> Mapping[str, float]:
        mean, deviation = inception_score(self._all(), splits=self.splits, seed=self.seed)
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
        features: Annotated[Any, OneOf("metrics.features")] = DEFAULT,
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
