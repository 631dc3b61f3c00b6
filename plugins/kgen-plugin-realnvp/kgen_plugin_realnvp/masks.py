"""Which numbers a coupling keeps (1) and which it changes (0): arrays (H, W, C) of 0 and 1."""

from __future__ import annotations

import numpy as np

from kgen_plugin_realnvp.bijections.squeeze import squeeze


def checkerboard(height: int, width: int, channels: int) -> np.ndarray:
    """1 where row + column is even, the same for all channels (Dinh et al. 2017, figure 3, left)."""
    rows, columns = np.indices((height, width))
    return np.repeat((rows + columns + 1) % 2, channels).reshape(height, width, channels).astype(np.float32)


def halves(height: int, width: int, channels: int) -> np.ndarray:
    """1 for the first half of the channels (Dinh et al. 2017, figure 3, right)."""
    mask = np.zeros((height, width, channels), np.float32)
    mask[..., : channels // 2] = 1.0
    return mask


def squeezed_checkerboard(height: int, width: int, channels: int, factor: int) -> np.ndarray:
    """The checkerboard of the pixels, as it is after they were squeezed.

    A coupling with it is the coupling with `checkerboard` before the squeeze, but its network works on arrays of
    1 / factor the height and width.

    Args:
        height, width, channels: After the squeeze: `channels` is a multiple of ``factor ** 2``.
        factor: Of the squeeze.
    """
    pixels = checkerboard(height * factor, width * factor, channels // factor**2)
    return np.asarray(squeeze(pixels[None], factor, np))[0]
