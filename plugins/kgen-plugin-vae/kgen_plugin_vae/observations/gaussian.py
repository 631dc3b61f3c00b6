"""Gaussian densities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from keras import ops

from kgen.random import normal
from kgen_plugin_vae.observations.scales import BIN, floored

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A normal distribution around the decoder's image, with a learned standard deviation.

    Args:
        deviation: "shared": one number for all pixels of all images, the optimum of which weighs reconstruction
            against the KL divergence as the likelihood wants it (Rybkin et al. 2021); or "pixel": the decoder gives
            one for every number of every pixel.
        pixels: x are 8-bit images in [-1, 1]. Uniform noise as wide as a bin makes their density one that is bounded;
            its logarithm plus that of the bin's volume is, on average, below the logarithm of the image's
            probability (Theis et al. 2016, section 3.1). Turn it off for an autoencoder's latents: likelihoods are
            then densities, and generated latents are not kept in [-1, 1].
        floor: Least natural logarithm of the standard deviation.
    """

    deviation: Literal["shared", "pixel"] = "shared"
    pixels: bool = True
    floor: float = -7.0

    likelihood_of: ClassVar[str] = ""

    @property
    def shared(self) -> int:
        return 1 if self.deviation == "shared" else 0

    @property
    def dither(self) -> float:
        return BIN if self.pixels else 0.0

    def initial(self, channels: int) -> np.ndarray:
        return np.zeros(channels + 1 if self.shared else 2 * channels)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, H, W, C) and logarithm of the deviation, (B, H, W, C or 1)."""
        numbers = parameters.shape[-1]
        channels = numbers - 1 if self.shared else numbers // 2
        return parameters[..., :channels], floored(parameters[..., channels:], self.floor)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Logarithm of the density of x (B, H, W, C), plus that of the bins' volume if x are `pixels`: (B,) nats."""
        mean, log_deviation = self._split(parameters)
        terms = -0.5 * ops.square((x - mean) * ops.exp(-log_deviation)) - log_deviation - 0.5 * math.log(2 * math.pi)
        return ops.sum(terms + math.log(BIN) if self.pixels else terms, axis=(1, 2, 3))

    def mean(self, parameters: Tensor) -> Tensor:
        return self._bounded(self._split(parameters)[0])

    def mode(self, parameters: Tensor) -> Tensor:
        return self.mean(parameters)

    def sample(self, parameters: Tensor, keys: Tensor) -> Tensor:
        mean, log_deviation = self._split(parameters)
        return self._bounded(mean + ops.exp(log_deviation) * normal(keys, 0, tuple(mean.shape[1:])))

    def _bounded(self, x: Tensor) -> Tensor:
        return ops.clip(x, -1.0, 1.0) if self.pixels else x
