"""What all datasets of emoji share: their captions, and which captions are chosen."""

from __future__ import annotations

import difflib
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
import regex
from PIL import ImageColor
from pydantic import Field

from kgen import DataError, Dataset, Space, Split
from kgen_plugin_openmoji.emojis import Emoji, all_emojis

TIME_LIMIT = 10.0  # seconds to match all captions, because some patterns would take years


class EmojiDataset(Dataset):
    """Emoji, with their Unicode names as captions: "red heart", "grinning face".

    Args:
        size: Height and width in pixels.
        language: Language of the captions, by its code in the `emoji` package: "en", "zh", "de", ...
        match: Regular expressions, ignoring case. A caption is kept if one of them is found in it. None keeps all.
        exclude: Regular expressions, ignoring case. A caption is dropped if one of them is found in it.
        holdout: Captions that are kept out of training. They become the split "holdout".
        validation: Interval n: every n-th of the other images goes to the split "validation". 0 means no such split.
        background: Background color, a name or #rrggbb.
        skin_tones: Whether to include the five skin tone variants of hands and people.

    Attributes:
        label: The name of the dataset in messages.

    Raises:
        DataError: No caption matches; or a pattern, a color, a language or a held-out caption is invalid.
    """

    label: ClassVar[str]

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
            raise self._error(f"background {background!r} is not a color: try 'white' or '#ffffff'") from error
        self._splits = self._split(self.available(self._choose()))

    @abstractmethod
    def render(self, emoji: Emoji, background: tuple[int, int, int]) -> np.ndarray:
        """An image: uint8 (size, size, 3)."""

    def available(self, chosen: list[Emoji]) -> list[Emoji]:
        """The chosen emoji that this dataset has images of. Default: all of them."""
        return chosen

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: Split) -> Sequence[str]:
        return [emoji.name for emoji in self._splits[split]]

    def image(self, split: Split, index: int) -> np.ndarray:
        return self.render(self._splits[split][index], self._background)

    def _choose(self) -> list[Emoji]:
        emojis = all_emojis(self.language, self.skin_tones)
        if not emojis:
            raise self._error(f"there are no captions in language {self.language!r}: try 'en', 'zh' or 'de'")
        chosen = emojis
        if self.match is not None:
            keep = self._finder("match", self.match)
            chosen = tuple(e for e in chosen if keep(e.name))
        if self.exclude:
            drop = self._finder("exclude", self.exclude)
            chosen = tuple(e for e in chosen if not drop(e.name))
        if not chosen:
            raise self._error(f"none of {len(emojis)} captions passes match and exclude; one is {emojis[0].name!r}")
        return list(chosen)

    def _split(self, chosen: list[Emoji]) -> dict[Split, list[Emoji]]:
        names = [emoji.name for emoji in chosen]
        for caption in self.holdout:
            if caption not in names:
                near = difflib.get_close_matches(caption, names, n=3) or names[:3]
                raise self._error(f"holdout caption {caption!r} is not among the images; near it are {near}")
        seen = [emoji for emoji in chosen if emoji.name not in self.holdout]
        measured = seen[self.validation - 1 :: self.validation] if self.validation else []
        return {
            "train": [emoji for emoji in seen if emoji not in measured],
            "validation": measured,
            "holdout": [emoji for emoji in chosen if emoji.name in self.holdout],
        }

    def _finder(self, option: str, patterns: tuple[str, ...]) -> Callable[[str], bool]:
        """Returns a function that searches a text for any of the patterns. All its calls share `TIME_LIMIT`."""
        try:
            compiled = [regex.compile(pattern, regex.IGNORECASE) for pattern in patterns]
        except regex.error as error:
            raise self._error(f"{option} {error.pattern!r} is not a regular expression: {error}") from error
        end = time.monotonic() + TIME_LIMIT

        def is_found(text: str) -> bool:
            for pattern in compiled:
                try:
                    if pattern.search(text, timeout=max(end - time.monotonic(), 0.001)):
                        return True
                except TimeoutError:
                    raise self._error(
                        f"{option} {pattern.pattern!r} takes longer than {TIME_LIMIT:g} s: avoid nested repetitions "
                        "such as (a+)+"
                    ) from None
            return False

        return is_found

    def _error(self, message: str) -> DataError:
        return DataError(f"{self.label}: {message}")
