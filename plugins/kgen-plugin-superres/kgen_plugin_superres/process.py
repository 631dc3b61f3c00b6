"""The noise of the diffusion model: x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (image) to 1 (noise)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from kgen.nn import cosine_schedule, ddim, end_clean

Tensor = Any
ENDS = {"offset": 0.004 / 0.996, "end": 0.992 / 0.996}
"""Arguments of the cosine schedule: alpha and sigma are between the sine and the cosine of 0.004 * pi / 2."""

MIN_SIGMA = 0.3
"""Below this noise level, the weight of the loss does not grow further."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, H, W, C), t: a scalar) -> the denoised image (B, H, W, C)."""


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the amounts of image (alpha) and of noise (sigma), which are never 0; alpha^2 + sigma^2 = 1."""
    return cosine_schedule(t, **ENDS)


def weight(t: Tensor) -> Tensor:
    """Returns the weight of the squared error of a predicted image, 1 / sigma^2.

    It turns the error into that of the velocity alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D). At small
    noise levels it is bounded, as in Li and He 2025.
    """
    return 1.0 / ops.maximum(levels(t)[1], MIN_SIGMA) ** 2


def sample(denoise: Denoise, x: Tensor, steps: int) -> Tensor:
    """Samples an image from noise at t = 1, by DDIM without fresh noise (Song et al. 2021, equation 12).

    Args:
        x: (B, H, W, C), normal noise.
        steps: Number of steps, evenly spaced in t.
    """

    times = 1.0 - ops.arange(steps + 1, dtype="float32") / steps
    return ddim(lambda x, i: denoise(x, ops.take(times, i)), x, *end_clean(*levels(times)))
