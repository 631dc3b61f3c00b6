"""Logistic distributions over the 256 intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops
from pydantic import PositiveInt

from kgen.random import uniform
from kgen_plugin_vae.observations.scales import BIN, floored, to_8_bits

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A mixture of discretized logistic distributions (Salimans et al. 2017, section 2.1).

    The probability of an 8-bit intensity is the mass that a logistic distribution has in its bin. The bins of black and
    of white include the tails. The channels of a pixel share the weights of the components, and are independent given
    the component (one channel is not regressed on another).

    Args:
        components: Number of components of the mixture. 1 is a single logistic distribution.
        floor: Lower limit of the natural logarithm of the scale. At -7, an intensity that was predicted exactly has a
            probability of 0.97.
    """

    components: PositiveInt = 1
    floor: float = -7.0

    shared: ClassVar[int] = 0
    dither: ClassVar[float] = 0.0
    pixels: ClassVar[bool] = True
    likelihood_of: ClassVar[str] = ""

    def initial(self, channels: int) -> np.ndarray:
        """Returns locations spread over the intensities, because components that start equal would stay equal."""
        k = self.components
        locations = np.tile((2.0 * np.arange(k) + 1.0) / k - 1.0, channels)
        return np.concatenate([np.zeros(k if k > 1 else 0), locations, np.full(k * channels, -math.log(k))])

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits of the weights (B, H, W, 1, K), the locations and the log-scales (B, H, W, C, K)."""
        _, height, width, _ = parameters.shape
        k = self.components
        logits = parameters[..., :k] if k > 1 else ops.zeros_like(parameters[..., :1])
        rest = parameters[..., k:] if k > 1 else parameters
        channels = rest.shape[-1] // (2 * k)
        rest = ops.reshape(rest, (-1, height, width, 2, channels, k))
        return logits[..., None, :], rest[..., 0, :, :], floored(rest[..., 1, :, :], self.floor)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Returns the log-probability (B,) of the 8-bit image x (B, H, W, C) in [-1, 1], in nats.

        The mass between a < b is sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)). The logarithm of
        this product is accurate even for narrow or distant distributions.
        """
        logits, location, log_scale = self._split(parameters)
        x = x[..., None]  # (B, H, W, C, 1)
        inverse = ops.exp(-log_scale)
        upper, lower = (x + BIN / 2 - location) * inverse, (x - BIN / 2 - location) * inverse
        log_below_upper = ops.where(x > 1.0 - BIN / 2, 0.0, ops.log_sigmoid(upper))
        log_above_lower = ops.where(x < -1.0 + BIN / 2, 0.0, ops.log_sigmoid(-lower))
        inside = ops.logical_and(x <= 1.0 - BIN / 2, x >= -1.0 + BIN / 2)
        share = ops.where(inside, ops.log(-ops.expm1(-BIN * inverse)), 0.0)
        log_mass = ops.sum(log_below_upper + log_above_lower + share, axis=-2)  # (B, H, W, K)
        pixel = ops.logsumexp(ops.log_softmax(logits[..., 0, :], axis=-1) + log_mass, axis=-1)  # (B, H, W)
        return ops.sum(pixel, axis=(1, 2))

    def mean(self, parameters: Tensor) -> Tensor:
        """Returns the mean of the mixture, accurate to half an intensity.

        The mean of a component is not its location, but the mean of X clipped to [-1, 1], because black and white
        include the tails. It is ``1 - integral of P(X < x) from -1 to 1``, and the integral of a logistic distribution
        function is a softplus.
        """
        logits, location, log_scale = self._split(parameters)
        scale = ops.exp(log_scale)
        below = scale * (ops.softplus((1.0 - location) / scale) - ops.softplus((-1.0 - location) / scale))
        return ops.sum(_weights(logits) * (1.0 - below), axis=-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Returns the location of the heaviest component."""
        logits, location, _ = self._split(parameters)
        return ops.clip(_choose(location, ops.argmax(logits, axis=-1)), -1.0, 1.0)

    def sample(self, parameters: Tensor, keys: Tensor) -> Tensor:
        """Samples 8-bit intensities by inverse distribution functions: first a component, then the logistic."""
        logits, location, log_scale = self._split(parameters)
        shape = tuple(location.shape[1:-1])  # (H, W, C)
        cumulated = ops.cumsum(_weights(logits), axis=-1)  # (B, H, W, 1, K)
        which = ops.sum(ops.cast(uniform(keys, 0, (*shape[:2], 1))[..., None] >= cumulated, "int32"), axis=-1)
        which = ops.minimum(which, self.components - 1)  # (B, H, W, 1)
        u = ops.clip(uniform(keys, 1, shape), 1e-7, 1.0 - 1e-7)
        sample = _choose(location, which) + ops.exp(_choose(log_scale, which)) * (ops.log(u) - ops.log1p(-u))
        return to_8_bits(sample)


def _weights(logits: Tensor) -> Tensor:
    return ops.exp(ops.log_softmax(logits, axis=-1))


def _choose(values: Tensor, which: Tensor) -> Tensor:
    """(B, H, W, C, K), component (B, H, W, 1) -> (B, H, W, C)."""
    chosen = ops.one_hot(which, values.shape[-1], dtype=values.dtype)  # (B, H, W, 1, K)
    return ops.sum(values * chosen, axis=-1)
