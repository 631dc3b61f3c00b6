"""Decodes large latents in overlapping tiles, or one after the other, which needs less memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from kgen_plugin_diffusers.layers import Tensor

OVERLAP = 0.25
"""Smallest share of a tile, in height and in width, that its neighbor decodes, too; as in diffusers."""


def decode_in_tiles(
    decode: Callable[[Tensor], Tensor], z: Tensor, factor: int, channels: int, tile: int | None, sliced: bool
) -> Tensor:
    """Decodes latents in a loop of equal tiles, or of single images.

    Tiles are spaced evenly and overlap. In an overlap, the weights of the tiles change linearly from 0 to 1. The result
    is not that of the whole latent, because the normalizations and the attention of the network see one tile only.

    Args:
        decode: Decodes latents of any height and width: (B, h, w, C) -> (B, h * factor, w * factor, channels).
        z: (B, h, w, C).
        factor: Height and width of an image over those of its latent.
        channels: Number of channels of the images.
        tile: Height and width of a tile in `z`, at least 2; None: the whole height and width.
        sliced: Whether the images of the batch are decoded one after the other.

    Returns:
        (B, h * factor, w * factor, channels) float32.
    """
    sides = z.shape[1:3]
    sizes = [side if tile is None else min(tile, side) for side in sides]
    if not sliced and tuple(sizes) == tuple(sides):
        return decode(z)
    rows, columns = (tile_starts(side, size) for side, size in zip(sides, sizes, strict=True))
    vertical, horizontal = (_weights(size * factor, len(s) > 1) for size, s in zip(sizes, (rows, columns), strict=True))
    total = np.outer(
        _spread(vertical, rows * factor, sides[0] * factor), _spread(horizontal, columns * factor, sides[1] * factor)
    )
    weight = ops.convert_to_tensor(np.outer(vertical, horizontal)[None, :, :, None])  # (1, size, size, 1)
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)  # (T, 2)
    starts = ops.convert_to_tensor(corners.astype("int32"))
    batch = ops.shape(z)[0]
    count = 1 if sliced else batch

    def step(i: Any, canvas: Tensor) -> Tensor:
        row, column = ops.unstack(ops.take(starts, i % len(corners), axis=0), 2)
        first = i // len(corners)  # 0, unless single images are decoded
        part = ops.slice(z, (first, row, column, 0), (count, *sizes, z.shape[-1]))
        made = decode(ops.reshape(part, (-1, *sizes, z.shape[-1]))) * weight
        place = (first, row * factor, column * factor, 0)
        before = ops.slice(canvas, place, (count, *weight.shape[1:3], channels))
        return ops.slice_update(canvas, place, before + made)

    canvas = ops.zeros((batch, *total.shape, channels), "float32")
    canvas = ops.fori_loop(0, len(corners) * (batch if sliced else 1), step, canvas)
    return canvas / ops.convert_to_tensor(total[None, :, :, None])


def tile_starts(side: int, size: int) -> np.ndarray:
    """The first positions of the fewest evenly spaced tiles that cover a side and overlap enough, int."""
    overlap = max(1, math.ceil(size * OVERLAP))
    count = 1 + math.ceil((side - size) / (size - overlap)) if side > size else 1
    return np.round(np.linspace(0, side - size, count)).astype(int)


def _weights(length: int, overlaps: bool) -> np.ndarray:
    """The weights of a tile's pixels along a side (length,): they rise from each end over the overlap."""
    if not overlaps:
        return np.ones(length, "float32")
    pixels = np.arange(length) + 0.5
    overlap = length * OVERLAP
    return (np.minimum(np.minimum(pixels, length - pixels), overlap) / overlap).astype("float32")


def _spread(weights: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The sum of the weights of all tiles along a side: (length,)."""
    total = np.zeros(length, "float32")
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
