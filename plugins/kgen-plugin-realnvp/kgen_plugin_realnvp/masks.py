"""Masks (H, W, C) of couplings: 1 for the elements that a coupling keeps, 0 for those that it changes."""

from __future__ import annotations

import numpy as np

from kgen_plugin_realnvp.bijections.squeeze import squeeze


def checkerboard(height: int, width: int, channels: int) -> np.ndarray:
    """Returns 1 where row + column is even, for all channels (Dinh et al. 2017, figure 3, left)."""
    rows, columns = np.indices((height, width))
    return np.repeat((rows + columns + 1) % 2, channels).reshape(height, width, channels).astype(np.float32)


def halves(height: int, width: int, channels: int) -> np.ndarray:
    """Returns 1 for the first half of the channels (Dinh et al. 2017, figure 3, right)."""
    mask = np.zeros((height, width, channels), np.float32)
    mask[..., : channels // 2] = 1.0
    return mask


def squeezed_checkerboard(height: int, width: int, channels: int, factor: int) -> np.ndarray:
    """Returns the squeezed checkerboard of the pixels.

    A coupling with this mask equals a coupling with `checkerboard` before the squeeze, but its network works on arrays
    with 1 / factor of the height and width.

    Args:
        height, width, channels: Shape after the squeeze. `channels` is a multiple of ``factor ** 2``.
        factor: Factor of the squeeze.
    """
    pixels = checkerboard(height * factor, width * factor, channels // factor**2)
    return np.asarray(squeeze(pixels[None], factor, np))[0]
