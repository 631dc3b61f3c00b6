"""Decodes JPEG files with libjpeg-turbo alone, without the copies and conversions of Pillow."""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image

SMALLEST = 16
"""Smallest height and width. For smaller images, two scales of the decoder may give the same size."""


def jpeg_pixels(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Decodes a JPEG that Pillow has opened: uint8 (H, W, 3). The pixels are those of Pillow, in less time.

    The wheels of Pillow and of simplejpeg both contain libjpeg-turbo, and a test compares them bit by bit. If
    libjpeg-turbo warns of a file, Pillow must decode it. It accepts some of these files, and says what is wrong with
    the others.

    Args:
        data: The content of the file.
        image: The file as Pillow opened it. Its pixels are not loaded yet, and `draft` may have reduced its size.

    Returns:
        The pixels; None if Pillow must decode the file.
    """
    if image.mode not in ("L", "RGB") or min(image.size) < SMALLEST:
        return None
    width, height = image.size
    try:
        pixels = np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))
    except (KeyError, RuntimeError, ValueError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None
