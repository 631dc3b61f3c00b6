"""A plugin in one file."""

import math
from typing import Annotated

import keras
from keras import ops
from pydantic import Field

import kgen


class Gaussian(kgen.Generator):
    """Pixels are independent and normal, their means and scales linear in the pooled text."""

    likelihood = "estimate"

    def __init__(self, space, condition_space, *, least_scale: Annotated[float, Field(gt=0)] = 0.05, **kwargs):
        super().__init__(space, condition_space, **kwargs)
        self.least_scale = least_scale
        self.mean = keras.layers.Dense(space.size, dtype="float32")
        self.scale = keras.layers.Dense(space.size, activation="softplus", dtype="float32")

    def normal(self, condition):
        mean, scale = self.mean(condition["pooled"]), self.scale(condition["pooled"])  # (B, size)
        shape = (-1, *self.space.shape)
        return ops.reshape(mean, shape), ops.reshape(scale, shape) + self.least_scale  # (B, H, W, C)

    def log_likelihood(self, x, condition):
        mean, scale = self.normal(condition)
        density = -0.5 * ops.square((x - mean) / scale) - ops.log(scale) - 0.5 * math.log(2 * math.pi)
        nats = ops.sum(ops.reshape(density, (-1, self.space.size)), axis=1)  # (B,)
        return nats + self.space.size * math.log(2 / 255)  # of 8-bit images: density times a bin's volume

    def compute_losses(self, x, condition, training):
        return {"loss": -self.log_likelihood(x, condition) / self.space.size}

    def noise_spec(self, temperature=1.0):
        return {"normal": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(self, condition, null_condition, noise, temperature: Annotated[float, Field(ge=0)] = 1.0):
        mean, scale = self.normal(condition)
        return mean + temperature * scale * noise["normal"]


@kgen.hookimpl
def kgen_components(registry):
    registry.generator("gaussian", f"{__name__}:Gaussian", summary="Independent pixels, linear in the text")
