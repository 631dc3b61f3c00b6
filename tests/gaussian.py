"""A plugin in one file."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field

import kgen

KGEN_API = 1  # the contract that this plugin was written for

Tensor = Any
Condition = dict[str, Tensor]


class Gaussian(kgen.Generator):
    """Pixels are independent and normal; their means and scales are linear in the pooled text."""

    likelihood = "estimate"

    def __init__(
        self,
        space: kgen.Space,
        condition_space: kgen.ConditionSpace,
        *,
        least_scale: Annotated[float, Field(gt=0)] = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.least_scale = least_scale
        self.mean = keras.layers.Dense(space.size, dtype="float32")
        self.scale = keras.layers.Dense(space.size, activation="softplus", dtype="float32")

    def normal(self, condition: Condition) -> tuple[Tensor, Tensor]:
        mean, scale = self.mean(condition["pooled"]), self.scale(condition["pooled"])  # (B, size)
        shape = (-1, *self.space.shape)
        return ops.reshape(mean, shape), ops.reshape(scale, shape) + self.least_scale  # (B, H, W, C)

    def log_likelihood(self, x: Tensor, condition: Condition) -> Tensor:
        mean, scale = self.normal(condition)
        density = -0.5 * ops.square((x - mean) / scale) - ops.log(scale) - 0.5 * math.log(2 * math.pi)
        nats = ops.sum(ops.reshape(density, (-1, self.space.size)), axis=1)  # (B,)
        return nats + self.space.size * math.log(2 / 255)  # an 8-bit image's probability: density * volume of a bin

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the negative log-likelihood per dimension, in nats."""
        return {"loss": -self.log_likelihood(x, condition) / self.space.size}

    def noise_spec(self, *, temperature: float = 1.0) -> Mapping[str, kgen.NoiseSpec]:
        return {"normal": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        temperature: Annotated[float, Field(ge=0)] = 1.0,
    ) -> Tensor:
        mean, scale = self.normal(condition)
        return mean + temperature * scale * noise["normal"]


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator("gaussian", f"{__name__}:Gaussian", summary="Independent pixels, linear in the text")
