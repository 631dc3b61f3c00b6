"""Positions of tokens on their grid: reading orders and rotary positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from kgen import part

Tensor = Any

PERIOD = 100.0
"""Period of the slowest rotation, in units of 2 pi tokens. It is a few times the side of a grid (Heo et al. 2024,
section 3.2)."""


def reading_order(order: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the tokens of a grid, numbered row by row, in their reading order.

    Args:
        order: A `tokens.order`: "raster", "columns", "spiral", or an order from another plugin.
        shape: Shape of the grid. The axes after the first two (channels) are read together.

    Returns:
        (N,) int32, a permutation of 0 .. N-1.

    Raises:
        ValueError: the order does not return a permutation.
    """
    places = np.asarray(part("tokens.order", order)(shape))
    if not np.array_equal(np.sort(places), np.arange(math.prod(shape))):
        raise ValueError(f"order {order!r} does not name each of the {math.prod(shape)} tokens once")
    return places.astype(np.int32)


def raster(shape: tuple[int, ...]) -> np.ndarray:
    """Reads row by row. Every `tokens.order` has this signature, and every plugin can add one."""
    return np.arange(math.prod(shape), dtype=np.int32)


def columns(shape: tuple[int, ...]) -> np.ndarray:
    """Reads column by column. A sequence is read from the first token to the last."""
    if len(shape) < 2:
        return raster(shape)
    return raster(shape).reshape(shape[0], shape[1], -1).transpose(1, 0, 2).reshape(-1)


def spiral(shape: tuple[int, ...]) -> np.ndarray:
    """Reads along a spiral from the middle outwards. A sequence is read from the first token to the last."""
    if len(shape) < 2:
        return raster(shape)
    index = raster(shape).reshape(shape[0], shape[1], -1)  # (H, W, C)
    return np.concatenate([index[row, column] for row, column in _inwards(*shape[:2])][::-1])


def _inwards(height: int, width: int) -> list[tuple[int, int]]:
    """The cells of a grid along a spiral from its upper left corner to its middle."""
    cells = np.stack(np.indices((height, width)), axis=-1)  # (H, W, 2)
    path: list[tuple[int, int]] = []
    while cells.size:
        path += [(int(row), int(column)) for row, column in cells[0]]
        cells = np.rot90(cells[1:])
    return path


def rotations(shape: tuple[int, ...], dim: int) -> np.ndarray:
    """Returns the angles of rotary positions (Su et al. 2021). Each axis of the grid has its own pairs of features.

    Args:
        shape: Shape of the grid.
        dim: Number of features of an attention head; even.

    Returns:
        (N + 1, dim/2) float32. The last row is 0, for tokens without a position on the grid. If the number of axes does
        not divide the number of pairs, the remaining pairs are not rotated.
    """
    each = dim // 2 // len(shape)
    frequencies = PERIOD ** -(np.arange(each, dtype=np.float32) / max(each, 1))  # (F,)
    places = np.indices(shape, dtype=np.float32).reshape(len(shape), -1)  # (A, N)
    angles = np.concatenate([place[:, None] * frequencies for place in places], axis=1)  # (N, A F)
    return np.pad(angles, ((0, 1), (0, dim // 2 - angles.shape[1]))).astype(np.float32)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates pairs of features.

    Args:
        x: (B, H, n, d) queries or keys.
        angles: (B or 1, n, d/2) float32, in radians.
    """
    angles = ops.expand_dims(angles, 1)  # (B, 1, n, d/2)
    cosine, sine = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
