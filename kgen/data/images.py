"""Pictures of any kind -> uint8 arrays of one size."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from kgen.errors import DataError

Resize = Literal["crop", "pad", "stretch"]
"""How a picture of another shape becomes a square: its middle, all of it with background around, or distorted."""

MOST_PIXELS = 2**26
"""A picture of more is refused: a small file may hold one that fills the memory."""


FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX"),
    *("PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of what is read: pixels only, and nothing (EPS) that another program must be run for."""


class PictureError(ValueError):
    """A file is no picture, or damaged; the message says how."""


def background_colour(name: str, owner: str) -> tuple[int, int, int]:
    """Reads a colour as CSS writes it. Raises DataError in the name of `owner`."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise DataError(f"{owner}: background '{name}' is no colour: try 'white' or '#ffffff'") from None
    return red, green, blue


def decode(data: bytes, background: tuple[int, int, int], least: int = 0) -> Image.Image:
    """Decodes a file of any of `FORMATS` and any mode; of several frames the first.

    Args:
        background: What is seen through transparent parts.
        least: The picture may come back smaller than it is, but not below this height and width (JPEG: much faster).

    Returns:
        An RGB picture, turned as its EXIF data say.

    Raises:
        PictureError: not a picture, truncated, or too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.format not in FORMATS:
                raise PictureError(f"{picture.format} files are not read: make it a PNG or JPEG")
            if math.prod(picture.size) > MOST_PIXELS:
                raise PictureError(f"{picture.width} x {picture.height} pixels are more than the {MOST_PIXELS} allowed")
            if least:
                picture.draft(None, (least, least))
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture), background)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("this is no picture that can be read" if data else "the file is empty") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than the {MOST_PIXELS} pixels allowed") from None
    except Exception as error:  # damaged files make Pillow's codecs fail in many ways
        raise PictureError(f"the file is damaged: {error}") from error


def read(path: Path, channels: int, size: int = 0) -> np.ndarray:
    """Reads one file: uint8 (height, width, channels).

    Args:
        channels: 1 or 3.
        size: Height and width to crop it to; 0: as it is.

    Raises:
        DataError: it cannot be read, or is no picture.
    """
    try:
        picture = decode(path.read_bytes(), (255, 255, 255))
    except (PictureError, OSError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    picture = picture if channels == 3 else picture.convert("L")
    if size:
        return fit(picture, size, "crop", (255, 255, 255))
    return np.array(picture).reshape(picture.height, picture.width, channels)


def fit(picture: Image.Image, size: int, resize: Resize, background: tuple[int, int, int]) -> np.ndarray:
    """Resizes with anti-aliasing: uint8 (size, size, channels)."""
    target = (size, size)
    method = Image.Resampling.LANCZOS if min(picture.size) >= size else Image.Resampling.BICUBIC
    if resize == "crop":
        picture = ImageOps.fit(picture, target, method)
    elif resize == "pad":
        fill = (
            background if picture.mode == "RGB" else Image.new("RGB", (1, 1), background).convert("L").getpixel((0, 0))
        )
        scale = size / max(picture.size)
        inner = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method)
        picture = Image.new(picture.mode, target, fill)
        picture.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    else:
        picture = picture.resize(target, method)
    pixels = np.array(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _rgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        picture = Image.alpha_composite(canvas, layer)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, or of floats in [0, 1] or [0, 255], to 8 bits."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError("it holds numbers that are not finite")
    if picture.mode == "F":
        scale = 255.0 if values.max() <= 1 else 1.0
    else:
        scale = 255.0 / 65535.0 if picture.mode.startswith("I;16") or values.max() > 255 else 1.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
