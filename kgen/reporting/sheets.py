"""Images as arrays and as PNG files."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from kgen.errors import ConfigError, UnshownTextWarning
from kgen.storage.files import atomic_file, writable_folder
from kgen.storage.ownership import IMAGES, SOFTWARE, require_free

FONT_SIZE = 9
"""Size of the letters of captions, in pixels."""

LINE = 12
"""Height of a line of a caption, in pixels."""

NO_CHARACTER = "\uffff"
"""A text that no font has a glyph for."""

MAX_LINES = 3
"""Largest number of lines in a caption; the rest is cut off."""


def as_image(image: np.ndarray) -> Image.Image:
    """Converts an array, uint8 (height, width, 1 or 3), to a Pillow image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def enlarged(image: np.ndarray, scale: int) -> Image.Image:
    """Converts an array, uint8 (height, width, channels), to a Pillow image, enlarged by an integer factor."""
    height, width = image.shape[:2]
    return as_image(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def save_png(path: Path, image: Image.Image | np.ndarray, metadata: Mapping[str, str]) -> None:
    """Writes a PNG atomically.

    Args:
        path: The file.
        image: A Pillow image, or an array as for `as_image`.
        metadata: Text chunks, such as prompt, seed and model.

    Raises:
        ConfigError: there is already a file that kgen did not make.
    """
    require_free(path)
    info = PngInfo()
    info.add_itxt("Software", SOFTWARE)
    for key, text in metadata.items():
        info.add_itxt(key, text)
    if isinstance(image, np.ndarray):
        image = as_image(image)
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def require_png(path: Path) -> None:
    """Raises ConfigError if no PNG can be written to `path`, or if a file there is not to be replaced."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--output {path}: must end with '.png'")
    require_free(path)
    writable_folder(path.parent)


def save_sheet(
    path: Path, images: np.ndarray, captions: Sequence[str], columns: int, metadata: Mapping[str, str]
) -> None:
    """Writes a PNG with a grid of images: see `grid` and `save_png`."""
    save_png(path, grid(images, captions, columns), {**metadata, IMAGES: str(len(images))})


def grid(images: np.ndarray, captions: Sequence[str] | None = None, columns: int = 0, scale: int = 0) -> Image.Image:
    """Arranges images in a grid, each with its caption below.

    Args:
        images: uint8 (N, height, width, channels).
        captions: N texts, broken into lines as wide as an image; None: no captions.
        columns: Images per row; 0: a grid that is about square.
        scale: Integer factor by which each image is enlarged; 0: small images are enlarged to about 96 pixels.
    """
    count, height, width = images.shape[:3]
    columns = columns or math.ceil(math.sqrt(count))
    scale = scale or max(1, round(96 / max(height, width)))
    font, gap = _font(), 4
    cell_w, cell_h = width * scale, height * scale
    _warn_of_unshown(captions or (), font)
    texts = [_lines(caption, cell_w - gap, font) for caption in captions or ()]
    text_h = LINE * max(map(len, texts), default=0) + 2
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * (cell_w + gap) + gap, rows * (cell_h + text_h + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x = gap + (i % columns) * (cell_w + gap)
        y = gap + (i // columns) * (cell_h + text_h + gap)
        sheet.paste(as_image(image).convert("RGB").resize((cell_w, cell_h), Image.Resampling.NEAREST), (x, y))
        if texts:
            _write(pen, (x, y + cell_h + 1), texts[i], font)
    return sheet


def matrix(
    rows: Sequence[np.ndarray], names: Sequence[str], columns: Sequence[str] = (), scale: int = 0
) -> Image.Image:
    """Arranges rows of images, with the name of each row on the left, and the title of each column on top.

    Args:
        rows: Arrays, uint8 (N, height, width, channels).
        names: One name per row.
        columns: N titles, broken into lines as wide as an image; empty: no titles.
        scale: See `grid`.
    """
    count, height, width = rows[0].shape[:3]
    scale = scale or max(1, round(96 / max(height, width)))
    font, gap = _font(), 4
    left = gap + math.ceil(max(font.getlength(name) for name in names)) + gap
    cell_w, cell_h = width * scale + gap, height * scale + gap
    _warn_of_unshown([*names, *columns], font)
    titles = [_lines(title, cell_w - 2 * gap, font) for title in columns]
    top = LINE * max(map(len, titles), default=0) + gap + 2
    sheet = Image.new("RGB", (left + count * cell_w, top + len(rows) * cell_h), "white")
    pen = ImageDraw.Draw(sheet)
    for j, title in enumerate(titles):
        _write(pen, (left + j * cell_w, gap), title, font)
    for i, (name, images) in enumerate(zip(names, rows, strict=True)):
        pen.text((gap, top + i * cell_h + cell_h // 2 - 6), name, fill="black", font=font)
        for j, image in enumerate(images):
            enlarged = as_image(image).convert("RGB").resize((cell_w - gap, cell_h - gap), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + j * cell_w, top + i * cell_h))
    return sheet


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def _font() -> Font:
    """DejaVu Sans, which comes with matplotlib: it has the letters of Europe, and more."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font) -> None:
    left, top = place
    for i, line in enumerate(lines):
        pen.text((left, top + i * LINE), line, fill="black", font=font)


def _warn_of_unshown(texts: Sequence[str], font: Font) -> None:
    """Warns of characters that the font does not have, such as those of Chinese and emoji."""
    missing = bytes(font.getmask(NO_CHARACTER))
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    if unshown := [letter for letter in letters if bytes(font.getmask(letter)) == missing]:
        warnings.warn(
            f"grids of images show boxes in place of {len(unshown)} characters of their captions, such as "
            f"'{unshown[0]}': kgen's font does not have them. The metadata of the PNG files have the whole texts",
            UnshownTextWarning,
            stacklevel=3,
        )


def _lines(text: str, width: int, font: Font) -> list[str]:
    """Breaks a text between words into lines of at most `width` pixels, and at most `MAX_LINES` lines."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    kept = lines[:MAX_LINES]
    if len(lines) > MAX_LINES:
        kept[-1] += "…"
    return [_shorten(line, width, font) for line in kept]


def _shorten(text: str, width: int, font: Font) -> str:
    if font.getlength(text) <= width:
        return text
    text = text.removesuffix("…")
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
