"""Converts images of any size and kind to arrays of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kgen import ConfigError


def as_bytes(image: Any) -> np.ndarray:
    """Converts an image to uint8 (height, width, channels), with 1 or 3 channels.

    Args:
        image: uint8, or float in [-1, 1].

    Raises:
        ConfigError: the image is something else.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[-1] in (1, 3) and array.size:
        if array.dtype == np.uint8:
            return array
        if array.dtype.kind == "f":
            return np.rint((np.clip(array, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    raise ConfigError(
        f"an image is an array uint8 (height, width, 1 or 3), not {type(image).__name__} {array.dtype} {array.shape}"
    )


def resized(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Crops the middle of an image, and converts it to the size and channels of `shape`, with anti-aliasing: uint8."""
    height, width, channels = shape
    if image.shape == shape:
        return image
    image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L" if channels == 1 else "RGB")
    large = image.width >= width and image.height >= height
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS if large else Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(shape)
