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
        deviation: Standard deviation. "shared": one for all pixels of all images, which balances reconstruction and
            KL divergence by maximum likelihood (Rybkin et al. 2021). "pixel": one for each channel of each pixel, from
            the decoder.
        pixels: Whether x are 8-bit images in [-1, 1]. Then uniform noise as wide as a bin keeps the density bounded.
            The log-density plus the logarithm of the bin's volume is, on average, below the log-probability of the
            image (Theis et al. 2016, section 3.1). Use false for an autoencoder's latents: likelihoods are then
            densities, and generated latents are not clipped to [-1, 1].
        floor: Lower limit of the natural logarithm of the standard deviation.
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
        """Returns the mean (B, H, W, C) and the logarithm of the deviation (B, H, W, C or 1)."""
        numbers = parameters.shape[-1]
        channels = numbers - 1 if self.shared else numbers // 2
        return parameters[..., :channels], floored(parameters[..., channels:], self.floor)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Returns the log-density (B,) of x (B, H, W, C) in nats; for `pixels`, plus the log-volume of the bins."""
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
