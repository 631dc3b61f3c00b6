"""Pixels: bytes 0 to 255 as they are stored, numbers from -1 to 1 as models see them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[-1, 1] -> 0..255, rounded; numbers outside are clipped."""
    levels: np.ndarray = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5)
    return levels.astype(np.uint8)


def floats(images: Any) -> Any:
    """A tensor uint8 0..255 -> float32 in [-1, 1]; floats pass."""
    if keras.backend.standardize_dtype(images.dtype).startswith("float"):
        return images
    return keras.ops.cast(images, "float32") / 127.5 - 1.0
