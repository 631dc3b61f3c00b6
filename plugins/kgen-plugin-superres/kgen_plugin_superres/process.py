"""The noise of the diffusion model: x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (image) to 1 (noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

Tensor = Any
MIN_SIGMA = 0.3
"""Below it, an error of the image costs no more."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, H, W, C), t: a scalar) -> the clean image that x seems to hold."""


def alpha(t: Tensor) -> Tensor:
    """How much image there is: the cosine schedule (Nichol and Dhariwal 2021), whose ends stay clear of 0."""
    return ops.cos(_angle(t))


def sigma(t: Tensor) -> Tensor:
    """How much noise there is; alpha^2 + sigma^2 = 1."""
    return ops.sin(_angle(t))


def _angle(t: Tensor) -> Tensor:
    return (0.004 + 0.992 * t) * (math.pi / 2)


def weight(t: Tensor) -> Tensor:
    """Of the squared error of a predicted image: that makes it the error of the velocity alpha eps - sigma x_0.

    (Salimans and Ho 2022, appendix D.) Where there is little noise it is kept from growing, as in Li and He 2025.
    """
    return 1.0 / ops.maximum(sigma(t), MIN_SIGMA) ** 2


def sample(denoise: Denoise, x: Tensor, steps: int) -> Tensor:
    """DDIM without fresh noise (Song et al. 2021, equation 12): from noise at t = 1 to an image.

    Args:
        x: (B, H, W, C), normal noise.
        steps: Evenly spaced in t.
    """

    def step(i: Tensor, x: Tensor) -> Tensor:
        t = 1.0 - ops.cast(i, "float32") / steps
        later = t - 1.0 / steps
        image = denoise(x, t)
        eps = (x - alpha(t) * image) / sigma(t)
        return alpha(later) * image + sigma(later) * eps

    x = ops.fori_loop(0, steps - 1, step, x)
    return denoise(x, ops.convert_to_tensor(1.0 / steps, "float32"))
