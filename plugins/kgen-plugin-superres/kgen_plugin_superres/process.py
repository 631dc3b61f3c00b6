"""The noise of the diffusion model: x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (image) to 1 (noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

Tensor = Any
MIN_SIGMA = 0.3
"""Below this noise level, the weight of the loss does not grow further."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, H, W, C), t: a scalar) -> the denoised image (B, H, W, C)."""


def alpha(t: Tensor) -> Tensor:
    """Returns the amount of image by the cosine schedule (Nichol and Dhariwal 2021), never 0."""
    return ops.cos(_angle(t))


def sigma(t: Tensor) -> Tensor:
    """Returns the amount of noise, never 0; alpha^2 + sigma^2 = 1."""
    return ops.sin(_angle(t))


def _angle(t: Tensor) -> Tensor:
    return (0.004 + 0.992 * t) * (math.pi / 2)


def weight(t: Tensor) -> Tensor:
    """Returns the weight of the squared error of a predicted image, 1 / sigma^2.

    It turns the error into that of the velocity alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D). At small
    noise levels it is bounded, as in Li and He 2025.
    """
    return 1.0 / ops.maximum(sigma(t), MIN_SIGMA) ** 2


def sample(denoise: Denoise, x: Tensor, steps: int) -> Tensor:
    """Samples an image from noise at t = 1, by DDIM without fresh noise (Song et al. 2021, equation 12).

    Args:
        x: (B, H, W, C), normal noise.
        steps: Number of steps, evenly spaced in t.
    """

    def step(i: Tensor, x: Tensor) -> Tensor:
        t = 1.0 - ops.cast(i, "float32") / steps
        later = t - 1.0 / steps
        image = denoise(x, t)
        eps = (x - alpha(t) * image) / sigma(t)
        return alpha(later) * image + sigma(later) * eps

    x = ops.fori_loop(0, steps - 1, step, x)
    return denoise(x, ops.convert_to_tensor(1.0 / steps, "float32"))
