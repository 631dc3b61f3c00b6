"""Making images smaller and larger, the same way on every backend."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


def shrink(images: Tensor, factor: int) -> Tensor:
    """The mean of every square of `factor` by `factor` pixels: (B, H, W, C) -> (B, H/f, W/f, C)."""
    _, height, width, channels = images.shape
    squares = ops.reshape(images, (-1, height // factor, factor, width // factor, factor, channels))
    return ops.mean(squares, axis=(2, 4))


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation (Keys 1981, a = -0.5), pixels being squares: (B, h, w, C) -> (B, h*f, w*f, C)."""
    rows, columns = (ops.convert_to_tensor(bicubic(size, factor)) for size in images.shape[1:3])
    return ops.einsum("Hh,bhwc,Ww->bHWc", rows, ops.cast(images, "float32"), columns)


def agree(images: Tensor, small: Tensor, share: float) -> Tensor:
    """Moves images so that, made small, they are `small`: every square of pixels by the same amount.

    The projection onto the images that agree (range and null space, Wang et al. 2023, equation 13).

    Args:
        images: (B, H, W, C).
        small: (B, h, w, C).
        share: Of the way to go, from 0 to 1.
    """
    factor = images.shape[1] // small.shape[1]
    missing = share * (small - shrink(images, factor))
    return images + ops.repeat(ops.repeat(missing, factor, axis=1), factor, axis=2)


@cache
def bicubic(size: int, factor: int) -> np.ndarray:
    """The weights (size * factor, size) of `size` pixels in each pixel of the larger row; beyond its ends, none."""
    centers = (np.arange(size * factor) + 0.5) / factor - 0.5
    weights = _keys(np.abs(centers[:, None] - np.arange(size)[None, :]))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys's kernel at distances x >= 0."""
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))
