"""Guidance of the denoised image, and the noise levels at which it is used."""

from __future__ import annotations

import math
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
"""An interval of noise levels (low, high], in units of `noise_level`. A high of None becomes infinity."""


def guide(conditional: Tensor, unconditional: Tensor, weight: Tensor | float, rescale: Tensor | float) -> Tensor:
    """Applies classifier-free guidance (Ho and Salimans 2022) to the denoised images of two conditions.

    Args:
        conditional, unconditional: (B, ...), denoised with the prompt and with the empty text.
        weight: Guidance weight. 1 gives the conditional image; more exaggerates what the condition changes.
        rescale: Share, 0 to 1, by which the standard deviation of each image is brought back to that of the
            conditional one (Lin et al. 2024, equation 16).
    """
    guided = unconditional + weight * (conditional - unconditional)
    if is_static(rescale, 0.0):
        return guided
    axes = tuple(range(1, len(guided.shape)))
    ratio = ops.std(conditional, axis=axes, keepdims=True) / (ops.std(guided, axis=axes, keepdims=True) + 1e-6)
    return guided * (rescale * ratio + 1.0 - rescale)


def noise_level(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns sigma / alpha, the noise per image, elementwise. It is infinite where there is no image.

    This is the sigma of Karras et al. 2022, for every schedule: x / alpha is the image plus noise of this standard
    deviation.
    """
    return ops.where(alpha > 0, sigma / ops.where(alpha > 0, alpha, 1.0), float("inf"))


def is_inside(interval: Tensor | tuple[float, float], alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns whether low < sigma / alpha <= high, where guidance is used (Kynkäänniemi et al. 2024): a bool scalar.

    Args:
        alpha, sigma: Scalars.
        interval: (low, high), see `NoiseInterval`.
    """
    level = noise_level(alpha, sigma)
    return ops.logical_and(level > interval[0], level <= interval[1])
