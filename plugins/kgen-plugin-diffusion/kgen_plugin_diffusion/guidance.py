"""Guides the denoised image, and decides at which noise levels guidance is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from keras import ops
from pydantic import AfterValidator, Field

from kgen.options import is_static

Tensor = Any


def _as_interval(given: tuple[float, float | None]) -> tuple[float, float]:
    low, high = given[0], math.inf if given[1] is None else given[1]
    if low >= high:
        raise ValueError(f"must be [low, high] with low < high, got [{low:g}, {high:g}]")
    return low, high


NoiseInterval = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)] | None], AfterValidator(_as_interval)
]
"""An interval (low, high] of noise levels, as `noise_level` returns them. A high of None becomes infinity."""


def lead_away(
    conditional: Tensor, others: Sequence[tuple[Tensor | float, Tensor]], rescale: Tensor | float = 0.0
) -> Tensor:
    """Returns a denoised image, led away from others: conditional + sum of (weight - 1) (conditional - other).

    With one other image, this is other + weight (conditional - other). If the other was denoised with the empty text,
    it is classifier-free guidance (Ho and Salimans 2022, equation 6). If it was denoised by a weaker model with the
    same text, it is autoguidance (Karras et al. 2024).

    Args:
        conditional: (B, ...), denoised with the prompt.
        others: Pairs of a weight and another denoised image (B, ...). A weight of 1 has no effect; a larger weight
            exaggerates the difference.
        rescale: Share, 0 to 1, by which the standard deviation of each image is brought back to that of the
            conditional one (Lin et al. 2024, equation 16).

    Returns:
        The guided image (B, ...).
    """
    guided = conditional + sum((weight - 1.0) * (conditional - other) for weight, other in others)
    if is_static(rescale, 0.0):
        return guided
    axes = tuple(range(1, len(guided.shape)))
    ratio = ops.std(conditional, axis=axes, keepdims=True) / (ops.std(guided, axis=axes, keepdims=True) + 1e-6)
    return guided * (rescale * ratio + 1.0 - rescale)


def noise_level(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns sigma / alpha, the amount of noise relative to that of the image, elementwise; infinity if alpha is 0.

    This is the sigma of Karras et al. 2022, for every schedule: x / alpha is the image plus noise of this standard
    deviation.
    """
    return ops.where(alpha > 0, sigma / ops.where(alpha > 0, alpha, 1.0), float("inf"))


def is_inside(interval: Tensor | tuple[float, float], alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns whether low < sigma / alpha <= high, as a bool scalar.

    Guidance is used only at these noise levels (Kynkäänniemi et al. 2024).

    Args:
        interval: (low, high), see `NoiseInterval`.
        alpha, sigma: Scalars, the amounts of image and of noise.
    """
    level = noise_level(alpha, sigma)
    return ops.logical_and(level > interval[0], level <= interval[1])
