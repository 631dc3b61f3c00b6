"""Distributions of the times, and so of the noise levels, in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import keras
from keras import ops
from pydantic import Field

from kgen.random import per_example
from kgen_plugin_diffusion.schedules import RHO, SIGMA_MAX, SIGMA_MIN

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Uniformly distributed times.

    Args:
        stratified: Whether to spread the times of a batch evenly over [0, 1], which lowers the variance of the loss
            (Kingma et al. 2021, appendix I.1).
    """

    kind: Literal["uniform"] = "uniform"
    stratified: bool = True

    def sample(self, count: Tensor, seed: Any) -> Tensor:
        """Samples times (count,) in [0, 1]."""
        if not self.stratified:
            return per_example(keras.random.uniform, (count,), seed)
        return per_example(_evenly_spread, (count,), seed)


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """Times whose logit is normal; by default, times near 0.5 are most frequent (Esser et al. 2024, section 3.1)."""

    kind: Literal["logit-normal"] = "logit-normal"
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0

    def sample(self, count: Tensor, seed: Any) -> Tensor:
        return ops.sigmoid(self.mean + self.std * per_example(keras.random.normal, (count,), seed))


@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """Times of the Karras schedule at which log(sigma) is normal (Karras et al. 2022, table 1)."""

    kind: Literal["log-normal"] = "log-normal"
    mean: float = -1.2
    std: Annotated[float, Field(gt=0)] = 1.2

    def sample(self, count: Tensor, seed: Any) -> Tensor:
        sigma = ops.exp(self.mean + self.std * per_example(keras.random.normal, (count,), seed))
        low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
        return ops.clip((sigma ** (1 / RHO) - low) / (high - low), 0.0, 1.0)


Times = Annotated[Uniform | LogitNormal | LogNormal, Field(discriminator="kind")]


def _evenly_spread(shape: tuple[Any], seed: Any) -> Tensor:
    """Times (count,) at equal distances in [0, 1), with a random offset."""
    (count,) = shape
    offset = keras.random.uniform((1,), seed=seed)
    return (offset + ops.arange(count, dtype="float32") / ops.cast(count, "float32")) % 1.0
