"""The dataset of the same emoji in the style of the font Noto Color Emoji."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from kgen import DataError
from kgen_plugin_openmoji.emoji_dataset import EmojiDataset
from kgen_plugin_openmoji.emojis import Emoji

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
"""Where Debian's package `fonts-noto-color-emoji` puts the font."""

PIXELS = 109
"""The size of the font's color bitmaps, which are 136 pixels wide and 128 high. They have no other size."""

VARIATION_SELECTOR = "\N{VARIATION SELECTOR-16}"

MAX_NAMED = 5
"""Number of emoji that a note names."""

_DRAWING = threading.Lock()  # FreeType draws with a font in one thread at a time


class NotoEmoji(EmojiDataset):
    """The emoji of `openmoji` with the same captions, drawn by the font Noto Color Emoji.

    Emoji that the font does not have are left out; a run says how many. Some emoji are sequences of characters, such as
    families and flags. Pillow draws them only if it has the library Raqm, as its wheels do.

    Args:
        font: The file of the font, with color bitmaps (CBDT). Default: that of the Debian package
            `fonts-noto-color-emoji`.

    Raises:
        DataError: The font is missing, or has no color bitmaps of 109 pixels; no caption matches; or a pattern, a
            color, a language or a held-out caption is invalid.
    """

    credit = "Noto Emoji by Google: images under the Apache License 2.0, font under the SIL Open Font License 1.1"
    label = "noto-emoji"

    def __init__(
        self,
        *,
        font: str = FONT,
        size: Annotated[int, Field(ge=8, le=1024)] = 32,
        language: str = "en",
        match: tuple[str, ...] | None = None,
        exclude: tuple[str, ...] = (),
        holdout: tuple[str, ...] = (),
        validation: Annotated[int, Field(ge=0)] = 0,
        background: str = "white",
        skin_tones: bool = False,
    ) -> None:
        self.font = font
        self._missing: list[str] = []
        super().__init__(
            size=size,
            language=language,
            match=match,
            exclude=exclude,
            holdout=holdout,
            validation=validation,
            background=background,
            skin_tones=skin_tones,
        )

    def available(self, chosen: list[Emoji]) -> list[Emoji]:
        font = _open(self.font)
        drawn = {emoji for emoji in chosen if _is_drawn(_text(emoji), font)}
        found = [emoji for emoji in chosen if emoji in drawn]
        self._missing = [emoji.name for emoji in chosen if emoji not in drawn]
        if not found:
            raise self._error(f"{self.font} has none of the {len(chosen)} emoji, such as {self._missing[0]!r}")
        return found

    def notes(self) -> Sequence[str]:
        if not self._missing:
            return ()
        named = ", ".join(self._missing[:MAX_NAMED]) + (", ..." if len(self._missing) > MAX_NAMED else "")
        return (f"left out {len(self._missing)} emoji that {self.font} does not have: {named}",)

    def render(self, emoji: Emoji, background: tuple[int, int, int]) -> np.ndarray:
        return _render(_text(emoji), self.font, self.size, background)


@functools.cache
def _open(path: str) -> ImageFont.FreeTypeFont:
    """Opens a font. Raises DataError if it is missing, or has no color bitmaps."""
    if not Path(path).is_file():
        raise DataError(
            f"noto-emoji: there is no font {path}: on Debian and Ubuntu, 'apt-get install fonts-noto-color-emoji' "
            "installs it; elsewhere, set data.font to a NotoColorEmoji.ttf with color bitmaps"
        )
    try:
        return ImageFont.truetype(path, PIXELS)
    except OSError as error:
        raise DataError(f"noto-emoji: {path} is not a font with color bitmaps of {PIXELS} pixels: {error}") from error


def _text(emoji: Emoji) -> str:
    """The characters to draw. Without Raqm, Pillow would draw the variation selector as a second glyph."""
    return emoji.characters.replace(VARIATION_SELECTOR, "")


def _is_drawn(text: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether a text is one glyph of a font. Several glyphs are beside each other, and one that it lacks is empty."""
    with _DRAWING:
        left, top, right, bottom = font.getbbox(text)
    return 0 < right - left < 1.5 * (bottom - top)


@functools.lru_cache(maxsize=8192)
def _render(text: str, path: str, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """Draws a glyph in the middle of a square: uint8 (size, size, 3)."""
    font = _open(path)
    with _DRAWING:
        left, top, right, bottom = font.getbbox(text)
        side = round(max(right - left, bottom - top))
        canvas = Image.new("RGBA", (side, side), (*background, 255))
        place = ((side - left - right) / 2, (side - top - bottom) / 2)
        ImageDraw.Draw(canvas).text(place, text, font=font, embedded_color=True)
    method = Image.Resampling.BOX if size < side else Image.Resampling.BICUBIC
    array = np.asarray(canvas.convert("RGB").resize((size, size), method))
    array.flags.writeable = False
    return array
