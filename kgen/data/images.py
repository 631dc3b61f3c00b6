"""Pictures of any kind -> uint8 arrays of one size."""

from __future__ import annotations

import functools
import io
import math
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, TiffImagePlugin, UnidentifiedImageError

from kgen.errors import DataError

Resize = Literal["crop", "pad", "stretch"]
"""How a picture of another shape becomes a square: its middle, all of it with background around, or distorted."""

MOST_PIXELS = 2**26
"""A picture of more is refused: a small file may hold one that fills the memory."""

LARGE = 2**23
"""An image of more pixels takes 100 MB and more: such images are decoded one at a time, and shrunk first of all."""

_one_at_a_time = threading.Lock()

GRAY_BITS = (8, 12, 16, 24, 32)
"""Depths of gray images whose file does not say how many of its container's bits are used."""

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

    Gray of more than 8 bits is scaled by the depth that a TIFF's tags name, else by the smallest of `GRAY_BITS` that
    holds its largest value. Colors of another color space (an ICC profile) are converted to sRGB.

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
            large = math.prod(picture.size) > LARGE
            with _one_at_a_time if large else nullcontext():
                picture.load()
                return _rgb(_shrunk(picture, least) if large else picture, background)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("this is no picture that can be read" if data else "the file is empty") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than the {MOST_PIXELS} pixels allowed") from None
    except Exception as error:  # damaged files make Pillow's codecs fail in many ways
        raise PictureError(f"the file is damaged: {error}") from error


def read_image(path: Path, channels: int, size: int = 0) -> np.ndarray:
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


def _shrunk(picture: Image.Image, least: int) -> Image.Image:
    """Makes a large image smaller by a whole factor, to at least twice `least`; in strips, to make no large copy."""
    factor = min(picture.size) // (2 * least) if least else 1
    if factor < 2 or picture.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return picture
    size = (math.ceil(picture.width / factor), math.ceil(picture.height / factor))
    small = Image.new(picture.mode, size)
    strip = factor * 64
    for top in range(0, picture.height, strip):
        piece = picture.crop((0, top, picture.width, min(top + strip, picture.height)))
        small.paste(piece.reduce(factor), (0, top // factor))
    small.info = picture.info
    small.getexif().update(picture.getexif())
    return small


def _rgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    limit = _named_limit(picture)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture, limit)
    convert = _to_srgb(picture.info.get("icc_profile"), picture.mode)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        if convert is not None:
            colors = _applied(convert, layer.convert("RGB"))
            layer = Image.merge("RGBA", (*colors.split(), layer.getchannel("A")))
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        picture = Image.alpha_composite(canvas, layer)
    elif convert is not None:
        source = picture if picture.mode in ("L", "CMYK") else picture.convert("RGB")
        picture = _applied(convert, source)
    return picture.convert("RGB")


def _applied(transform: Any, picture: Image.Image) -> Image.Image:
    return cast(Image.Image, ImageCms.applyTransform(picture, transform))  # None only where it works in place


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> Any:
    """The transform from a profile to sRGB; None where it is sRGB already, is missing, or does not fit the mode."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        read = mode if mode in ("L", "CMYK") else "RGB"
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), read, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _eight_bits(picture: Image.Image, limit: float) -> Image.Image:
    """Gray of 12, 16 or 32 bits, or of floats in [0, 1] or [0, 255], to 8 bits.

    Args:
        limit: The value of white, as the file names it; 0 where it names none, or one that is too small.
    """
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError("it holds numbers that are not finite")
    if values.min() < 0:
        raise PictureError("it holds negative numbers: save it with values from 0")
    largest = values.max()
    if picture.mode == "F" and not limit and largest > 255:
        raise PictureError(f"it holds floats up to {largest:g}: save it with values in [0, 1] or [0, 255]")
    if limit < max(largest, 1):
        usual = (1.0, 255.0) if picture.mode == "F" else (2.0**bits - 1 for bits in GRAY_BITS)
        limit = next(white for white in usual if largest <= white)
    return Image.fromarray(np.clip(np.rint(values * (255.0 / limit)), 0, 255).astype(np.uint8))


def _named_limit(picture: Image.Image) -> float:
    """The value of white by a TIFF's tags SMaxSampleValue, MaxSampleValue, or BitsPerSample below 16; else 0."""
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    for tag in (341, 281):
        if tag in tags:
            return float(max(tags[tag]) if isinstance(tags[tag], tuple) else tags[tag])
    bits = max(tags.get(258, (16,)))
    return 2.0**bits - 1 if bits < 16 else 0.0
