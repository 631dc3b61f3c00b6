"""The DDIM sampler of diffusion models, their cosine schedule, and dynamic thresholding.

A noisy image is x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from kgen.backend.loops.loop import fori_loop
from kgen.options import is_static

Tensor = Any


def cosine_schedule(t: Tensor, offset: float, end: float) -> tuple[Tensor, Tensor]:
    """Computes alpha and sigma at times t: the cosine and the sine of an angle that increases linearly with t.

    This is equation 17 of Nichol and Dhariwal 2021, without the division by f(0).

    Args:
        t: Times in [0, 1], of any shape.
        offset: The s of the equation, which keeps sigma above 0 at t = 0.
        end: Factor of `t`. If it is below 1, alpha stays above 0 at t = 1.

    Returns:
        alpha and sigma, of the shape of t.
    """
    angle = (t * end + offset) / (1.0 + offset) * (math.pi / 2)
    return ops.cos(angle), ops.sin(angle)


def end_clean(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces the last of the noise levels (N + 1,) by one without noise, for schedules with noise at t = 0."""
    count = alpha.shape[0]
    clean = ops.cast(ops.arange(count) == count - 1, "float32")
    return alpha * (1.0 - clean) + clean, sigma * (1.0 - clean)


def ddim(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    eta: Tensor | float = 0.0,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Denoising diffusion implicit models (Song et al. 2021, equations 12 and 16).

    This form holds for any alpha and sigma. Between levels s > t, the posterior of x_t given x_s and x_0 has the
    variance sigma_t^2 (1 - (alpha_s sigma_t / (alpha_t sigma_s))^2). A share eta^2 of this variance is fresh noise, and
    the rest of sigma_t^2 is the predicted noise. eta = 0 is deterministic and first order. eta = 1 is ancestral
    sampling (Ho et al. 2020, algorithm 2).

    Args:
        denoise: Predicts the clean image, given x and the index of its noise level.
        x: (B, ...) at the first level.
        alpha, sigma: (N + 1,) each, the noise levels of N steps. sigma is 0 only at the last level: see `end_clean`.
        eta: Share of fresh noise, from 0 to 1.
        noise: Returns fresh normal noise of the shape of x, given the index of a step; not needed if `eta` is 0.

    Returns:
        (B, ...), at the last level.
    """

    def step(i: Tensor, x: Tensor) -> Tensor:
        (a, s), (next_a, next_s) = ((ops.take(alpha, j), ops.take(sigma, j)) for j in (i, i + 1))
        clean = denoise(x, i)
        eps = (x - a * clean) / s
        variance = next_s**2 * (1.0 - (a * next_s / (next_a * s)) ** 2)
        fresh = eta * ops.sqrt(ops.maximum(variance, 0.0))
        kept = ops.sqrt(ops.maximum(next_s**2 - fresh**2, 0.0))
        x = next_a * clean + kept * eps
        return x if noise is None or is_static(eta, 0.0) else x + fresh * noise(i)

    return fori_loop(0, int(alpha.shape[0]) - 1, step, x)


def threshold_dynamically(image: Tensor, quantile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), for images in [-1, 1].

    It clips each image to a quantile of its absolute values, which is at least 1, and divides the image by it.

    Args:
        image: (B, ...).
        quantile: The quantile, in [0, 1].

    Returns:
        An array of the shape of `image`, in [-1, 1].
    """
    axes = tuple(range(1, len(image.shape)))
    flat = ops.reshape(ops.abs(image), (ops.shape(image)[0], -1))
    limit = ops.maximum(ops.quantile(flat, quantile, axis=1), 1.0)
    limit = ops.reshape(limit, (-1,) + (1,) * len(axes))
    return ops.clip(image, -limit, limit) / limit
