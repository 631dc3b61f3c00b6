"""Conversions between stored pixels, uint8 0..255, and the numbers in [-1, 1] that models use."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Converts [-1, 1] to 0..255, rounded. Numbers outside of [-1, 1] are clipped."""
    levels: np.ndarray = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5)
    return levels.astype(np.uint8)


def floats(images: Any) -> Any:
    """Converts a uint8 tensor, 0..255, to float32 in [-1, 1]. Floats are returned unchanged."""
    if keras.backend.standardize_dtype(images.dtype).startswith("float"):
        return images
    return keras.ops.cast(images, "float32") / 127.5 - 1.0
