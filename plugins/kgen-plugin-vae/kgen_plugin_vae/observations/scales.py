"""8-bit images in [-1, 1], and logarithms of widths that cannot fall below a floor."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any

BIN = 2.0 / 255.0
"""Distance of two 8-bit intensities, x = 2 v / 255 - 1."""


def floored(raw: Tensor, floor: float) -> Tensor:
    """A smooth ``max(raw, floor)``: unlike it, it has a gradient everywhere."""
    return floor + ops.softplus(raw - floor)


def to_8_bits(x: Tensor) -> Tensor:
    """The nearest intensity of an 8-bit image."""
    return ops.round((ops.clip(x, -1.0, 1.0) + 1.0) / BIN) * BIN - 1.0
