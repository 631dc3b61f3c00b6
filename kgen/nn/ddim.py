"""DDIM, the sampler of denoising diffusion models, and their cosine schedule.

A noisy image is x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from kgen.options import is_static

Tensor = Any


def cosine_schedule(t: Tensor, offset: float, end: float) -> tuple[Tensor, Tensor]:
    """alpha and sigma at times t, elementwise: the cosine and the sine of an angle that rises evenly with the time.

    Nichol and Dhariwal 2021, equation 17, without the division by f(0).

    Args:
        t: In [0, 1].
        offset: The s of the equation, which keeps sigma clear of 0 at t = 0.
        end: Of `t`: below 1, it keeps alpha clear of 0 at t = 1.
    """
    angle = (t * end + offset) / (1.0 + offset) * (math.pi / 2)
    return ops.cos(angle), ops.sin(angle)


def end_clean(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Noise levels (N + 1,), the last of which holds no noise, whatever the schedule says of t = 0."""
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
        denoise: x and the number of its noise level -> the clean image that x seems to hold.
        x: (B, ...) at the first level.
        alpha, sigma: (N + 1,) each, the levels from noise to image, with N steps between them; sigma is 0 in the last
            alone, see `end_clean`.
        eta: Share of fresh noise, 0 to 1.
        noise: Number of the step -> fresh normal noise of x's shape; not needed where `eta` is the number 0.

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

    return ops.fori_loop(0, int(alpha.shape[0]) - 1, step, x)
