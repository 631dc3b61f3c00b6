"""The noise of the diffusion model: x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (image) to 1 (noise)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from kgen.nn import cosine_schedule, ddim, end_clean

Tensor = Any
ENDS = {"offset": 0.004 / 0.996, "end": 0.992 / 0.996}
"""Of the cosine schedule: alpha and sigma lie between the sine and the cosine of 0.004 * pi / 2."""

MIN_SIGMA = 0.3
"""Below it, an error of the image costs no more."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, H, W, C), t: a scalar) -> the clean image that x seems to hold."""


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """How much image (alpha) and how much noise (sigma) there is at times t, elementwise; alpha^2 + sigma^2 = 1."""
    return cosine_schedule(t, **ENDS)


def weight(t: Tensor) -> Tensor:
    """Of the squared error of a predicted image: that makes it the error of the velocity alpha eps - sigma x_0.

    (Salimans and Ho 2022, appendix D.) Where there is little noise it is kept from growing, as in Li and He 2025.
    """
    return 1.0 / ops.maximum(levels(t)[1], MIN_SIGMA) ** 2


def sample(denoise: Denoise, x: Tensor, steps: int) -> Tensor:
    """DDIM without fresh noise (Song et al. 2021, equation 12): from noise at t = 1 to an image.

    Args:
        x: (B, H, W, C), normal noise.
        steps: Evenly spaced in t.
    """

    times = 1.0 - ops.arange(steps + 1, dtype="float32") / steps
    return ddim(lambda x, i: denoise(x, ops.take(times, i)), x, *end_clean(*levels(times)))
