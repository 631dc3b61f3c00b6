"""The variational lower bound of an image's log-likelihood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from kgen import fori_loop
from kgen.random import normal
from kgen_plugin_diffusion.samplers.grid import Denoise
from kgen_plugin_diffusion.schedules import Schedule

Tensor = Any
BIN = 2.0 / 255.0  # distance of two 8-bit intensities in [-1, 1]
START_LOG_SNR = -7.0  # of the first level: its KL from pure noise is at most 0.0007 bits per dimension in [-1, 1]
END_LOG_SNR = 13.3  # of the last level (Kingma et al. 2021, section 6): its noise leaves a bin with probability 0.0024


def variational_bound(
    denoise: Denoise,
    x0: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    discrete: bool = True,
    end_log_snr: float = END_LOG_SNR,
    seed: int = 0,
) -> Tensor:
    """Returns a lower bound of log p(x0): -(L_T + sum of L_t + L_0) of Ho et al. 2020, equation 5.

    The model's process has the given number of steps, with the variances of the true posteriors. The noise levels are
    spaced evenly in log-SNR. In the limit of many steps the bound depends only on the first and the last level (Kingma
    et al. 2021, section 5.1). A step between levels s < t costs 0.5 (SNR(s) - SNR(t)) |x0 - denoised|^2 (equation 13
    there), estimated with one noise sample from a fixed seed.

    Even for a perfect model of 8-bit images, the bound is loose for two reasons. First, the noise of the last level
    leaves a bin with probability 2 (1 - Phi(exp(end_log_snr / 2) / 255)). At 13.3 that costs 0.0035 bits per dimension,
    at 12 it would cost 0.17, and at 9.21 (sigma / alpha = 0.01, as at DDPM's first step) 1.71. Second, each step counts
    the error at its noisier end. That costs about 10 / `steps` of the sum of L_t, or 1% of it at 1000 steps.

    Args:
        denoise: Denoising function, see `Denoise`.
        x0: (B, ...) in [-1, 1].
        discrete: Whether the data are 8-bit images, x0 = 2 v / 255 - 1. Then the bound is of their probability, and L_0
            is the discretized Gaussian of Ho et al. 2020, equation 13. Otherwise the bound is of the density, and L_0
            is a Gaussian.
        end_log_snr: log(alpha^2 / sigma^2) of the last level. If the schedule reaches it at no time, the network gets
            the schedule's time 0 there.

    Returns:
        (B,) nats.
    """
    shape = tuple(x0.shape[1:])
    axes = tuple(range(1, len(x0.shape)))
    keys = ops.broadcast_to(ops.convert_to_tensor(np.array([[seed, 77]], np.int32)), (ops.shape(x0)[0], 2))
    alphas, sigmas, levels, snr = _levels(schedule, steps, end_log_snr)  # (steps + 1,), from noise to almost none

    def denoised(i: Tensor) -> Tensor:
        alpha, sigma, level = (ops.take(values, i) for values in (alphas, sigmas, levels))
        return denoise(alpha * x0 + sigma * normal(keys, i, shape), alpha, sigma, level)

    def add(i: Tensor, total: Tensor) -> Tensor:
        gain = ops.take(snr, i + 1) - ops.take(snr, i)
        return total + 0.5 * gain * ops.sum(ops.square(x0 - denoised(i)), axis=axes)

    nothing = ops.sum(ops.zeros_like(x0), axis=axes)
    steps_cost = fori_loop(0, steps, add, nothing)  # (B,)
    prior = _prior(x0, alphas[0], sigmas[0], axes)
    last = _reconstruction(x0, denoised(steps), alphas[steps], sigmas[steps], axes, discrete)
    return -(prior + steps_cost + last)


def _levels(schedule: Schedule, steps: int, end_log_snr: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns alpha, sigma, the network's noise level and the SNR, (steps + 1,) each, evenly spaced in log-SNR.

    Sigma follows from the log-SNR, even beyond the schedule's time 0.
    """
    log_snr = START_LOG_SNR + (end_log_snr - START_LOG_SNR) * ops.arange(steps + 1, dtype="float32") / steps

    time = schedule.time_at(log_snr)
    alpha = schedule.alpha(time)
    return alpha, alpha * ops.exp(-0.5 * log_snr), schedule.noise_cond(time, schedule.sigma(time)), ops.exp(log_snr)


def _prior(x0: Tensor, alpha: Tensor, sigma: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns L_T: KL(q(x_T | x_0) || N(0, alpha^2 + sigma^2)). Variance-preserving schedules have a variance of 1."""
    total = alpha**2 + sigma**2
    return 0.5 * ops.sum((sigma**2 + (alpha * x0) ** 2) / total - 1.0 - ops.log(sigma**2 / total), axis=axes)


def _reconstruction(
    x0: Tensor, image: Tensor, alpha: Tensor, sigma: Tensor, axes: tuple[int, ...], discrete: bool
) -> Tensor:
    """Returns L_0: -log p(x_0 | least noisy x), a Gaussian around the denoised image with deviation sigma / alpha."""
    deviation = sigma / alpha
    if not discrete:
        normalized = 0.5 * ((x0 - image) / deviation) ** 2 + ops.log(deviation) + 0.5 * math.log(2 * math.pi)
        return ops.sum(normalized, axis=axes)
    upper, lower = (x0 + BIN / 2 - image) / deviation, (x0 - BIN / 2 - image) / deviation
    upper_cdf = ops.where(x0 > 0.999, 1.0, _cdf(upper))
    lower_cdf = ops.where(x0 < -0.999, 0.0, _cdf(lower))
    mass = upper_cdf - lower_cdf
    # float32 does not resolve the mass in the tails: take the bin's width times its lowest density, a lower bound
    farthest = ops.maximum(ops.abs(upper), ops.abs(lower))
    less = ops.log(BIN / deviation) - 0.5 * farthest**2 - 0.5 * math.log(2 * math.pi)
    return -ops.sum(ops.where(mass > 1e-4, ops.log(ops.maximum(mass, 1e-4)), less), axis=axes)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + ops.erf(x / math.sqrt(2.0)))
