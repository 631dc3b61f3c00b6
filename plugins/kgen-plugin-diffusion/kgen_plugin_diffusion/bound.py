"""The variational bound: how likely a picture is, at least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from kgen.random import normal
from kgen_plugin_diffusion.samplers.grid import Denoise
from kgen_plugin_diffusion.schedules import Schedule

Tensor = Any
BIN = 2.0 / 255.0  # distance of two 8-bit intensities in [-1, 1]


def variational_bound(
    denoise: Denoise, x0: Tensor, schedule: Schedule, steps: int, *, discrete: bool = True, seed: int = 0
) -> Tensor:
    """Lower bound of log p(x0): -(L_T + sum of L_t + L_0) of Ho et al. 2020, equation 5.

    The model's process has the given number of steps, uniform in t, with the variances of the true posteriors. With
    alpha and sigma at the ends s < t of a step, L_t is 0.5 (SNR(s) - SNR(t)) |x0 - denoised|^2 (Kingma et al. 2021,
    equation 13), at one draw of the noise from a fixed seed.

    Args:
        denoise: See `Denoise`.
        x0: (B, ...) in [-1, 1].
        discrete: The data are 8-bit pictures, x0 = 2 v / 255 - 1, and the bound is of their probability: L_0 is the
            discretised Gaussian of Ho et al. 2020, equation 13. Otherwise it is of the density, and L_0 a Gaussian.

    Returns:
        (B,) nats.
    """
    shape = tuple(x0.shape[1:])
    axes = tuple(range(1, len(x0.shape)))
    keys = ops.broadcast_to(ops.convert_to_tensor(np.array([[seed, 77]], np.int32)), (ops.shape(x0)[0], 2))

    def level(i: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = ops.cast(i, "float32") / steps
        sigma = schedule.sigma(t)
        return t, schedule.alpha(t), sigma, schedule.level(t, sigma)

    def error(i: Any) -> tuple[Tensor, Tensor]:
        _, alpha, sigma, told = level(i)
        x = alpha * x0 + sigma * normal(keys, i, shape)
        picture = denoise(x, alpha, sigma, told)
        return picture, ops.sum(ops.square(x0 - picture), axis=axes)

    def add(i: Any, total: Tensor) -> Tensor:
        _, alpha, sigma, _ = level(i)
        _, cleaner_alpha, cleaner_sigma, _ = level(i - 1)
        gain = (cleaner_alpha / cleaner_sigma) ** 2 - (alpha / sigma) ** 2
        return total + 0.5 * gain * error(i)[1]

    nats = ops.fori_loop(2, steps + 1, add, ops.zeros_like(x0[(slice(None), *(0,) * len(shape))]))
    return -(nats + _prior(x0, *level(steps)[1:3], axes) + _reconstruction(x0, error(1)[0], level(1), axes, discrete))


def _prior(x0: Tensor, alpha: Tensor, sigma: Tensor, axes: tuple[int, ...]) -> Tensor:
    """L_T: KL(q(x_T | x_0) || N(0, s^2)), where s^2 is the noise's variance, 1 for variance preserving schedules."""
    total = ops.maximum(sigma, 1.0) ** 2
    return 0.5 * ops.sum((sigma**2 + (alpha * x0) ** 2) / total - 1.0 - ops.log(sigma**2 / total), axis=axes)


def _reconstruction(
    x0: Tensor, picture: Tensor, level: tuple[Tensor, ...], axes: tuple[int, ...], discrete: bool
) -> Tensor:
    """L_0: -log p(x_0 | x_1), a Gaussian around the picture with the deviation that x_1 leaves."""
    _, alpha, sigma, _ = level
    deviation = sigma / ops.sqrt(alpha**2 + sigma**2)
    if not discrete:
        return ops.sum(
            0.5 * ((x0 - picture) / deviation) ** 2 + ops.log(deviation) + 0.5 * math.log(2 * math.pi), axis=axes
        )
    upper, lower = (x0 + BIN / 2 - picture) / deviation, (x0 - BIN / 2 - picture) / deviation
    upper_cdf = ops.where(x0 > 0.999, 1.0, _cdf(upper))
    lower_cdf = ops.where(x0 < -0.999, 0.0, _cdf(lower))
    return -ops.sum(ops.log(ops.maximum(upper_cdf - lower_cdf, 1e-12)), axis=axes)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + ops.erf(x / math.sqrt(2.0)))


def bits_per_dimension(log_likelihood: Tensor, size: int) -> Tensor:
    """Nats of a whole picture -> bits for each of its `size` numbers."""
    return -log_likelihood / (size * math.log(2.0))
