"""Resizing of images, with the same result on every backend."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


def shrink(images: Tensor, factor: int) -> Tensor:
    """Returns the mean of each square of `factor` by `factor` pixels: (B, H, W, C) -> (B, H/f, W/f, C)."""
    _, height, width, channels = images.shape
    squares = ops.reshape(images, (-1, height // factor, factor, width // factor, factor, channels))
    return ops.mean(squares, axis=(2, 4))


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Enlarges by bicubic interpolation (Keys 1981, a = -0.5) of square pixels: (B, h, w, C) -> (B, h*f, w*f, C)."""
    rows, columns = (ops.convert_to_tensor(bicubic(size, factor)) for size in images.shape[1:3])
    return ops.einsum("Hh,bhwc,Ww->bHWc", rows, ops.cast(images, "float32"), columns)


def agree(images: Tensor, small: Tensor, share: float) -> Tensor:
    """Corrects images so that `shrink` makes them equal to `small`.

    This is a projection onto such images (range and null space, Wang et al. 2023, equation 13). It adds the same value
    to all pixels of a square.

    Args:
        images: (B, H, W, C).
        small: (B, h, w, C).
        share: Share of the correction, from 0 to 1.
    """
    factor = images.shape[1] // small.shape[1]
    missing = share * (small - shrink(images, factor))
    return images + ops.repeat(ops.repeat(missing, factor, axis=1), factor, axis=2)


@cache
def bicubic(size: int, factor: int) -> np.ndarray:
    """Returns the weights (size * factor, size) of a row's pixels in those of the enlarged row, without padding."""
    centers = (np.arange(size * factor) + 0.5) / factor - 0.5
    weights = _keys(np.abs(centers[:, None] - np.arange(size)[None, :]))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _keys(x: np.ndarray) -> np.ndarray:
    """Returns Keys's kernel at distances x >= 0."""
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))
