"""Rounding to 8-bit images in [-1, 1], and log-scales with a lower limit."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any

BIN = 2.0 / 255.0
"""Distance between neighboring 8-bit intensities, x = 2 v / 255 - 1."""


def floored(raw: Tensor, floor: float) -> Tensor:
    """Returns a smooth ``max(raw, floor)``, which has a gradient everywhere."""
    return floor + ops.softplus(raw - floor)


def to_8_bits(x: Tensor) -> Tensor:
    """Rounds to the nearest intensity of an 8-bit image."""
    return ops.round((ops.clip(x, -1.0, 1.0) + 1.0) / BIN) * BIN - 1.0
