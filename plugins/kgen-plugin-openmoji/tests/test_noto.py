from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.sbixGlyph import Glyph
from fontTools.ttLib.tables.sbixStrike import Strike
from kgen_plugin_openmoji.dataset import OpenMoji
from kgen_plugin_openmoji.noto import FONT, NotoEmoji
from PIL import Image

from kgen import DataError

WIDTH, HEIGHT = 136, 128
COLORS = {"\N{HEAVY BLACK HEART}": (255, 0, 0), "\N{LARGE PURPLE SQUARE}": (128, 0, 255)}
HEARTS = ("^(red|blue) heart$",)


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A font with two color bitmaps, whose upper halves have the colors above. The lower halves are transparent."""
    names = [f"glyph{number}" for number in range(len(COLORS))]
    builder = FontBuilder(2048, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(character): name for character, name in zip(COLORS, names, strict=True)})
    builder.setupGlyf({name: TTGlyphPen(None).glyph() for name in [".notdef", *names]})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (2550, 0)))
    builder.setupHorizontalHeader(ascent=1950, descent=-500)
    builder.setupOS2()
    builder.setupPost()
    strike = Strike(ppem=109, resolution=72)
    for name, color in zip(names, COLORS.values(), strict=True):
        image, file = Image.new("RGBA", (WIDTH, HEIGHT)), io.BytesIO()
        image.paste((*color, 255), (0, 0, WIDTH, HEIGHT // 2))
        image.save(file, "PNG")
        strike.glyphs[name] = Glyph(graphicType="png ", glyphName=name, imageData=file.getvalue())
    builder.font["sbix"] = table = newTable("sbix")
    table.version, table.flags, table.strikes = 1, 1, {109: strike}
    path = tmp_path_factory.mktemp("font") / "font.ttf"
    builder.save(path)
    return str(path)


def test_emoji_have_the_captions_of_openmoji_and_the_images_of_the_font(font: str) -> None:
    options = {"match": ("heart$", "square$"), "holdout": ("purple square",), "background": "#00ff00"}
    dataset, other = NotoEmoji(font=font, size=17, **options), OpenMoji(**options)
    assert dataset.captions("train") == ["red heart"] and dataset.captions("holdout") == ["purple square"]
    assert set(other.captions("train")) > {"red heart"}
    for split, color in (("train", (255, 0, 0)), ("holdout", (128, 0, 255))):
        image = dataset.image(split, 0)
        assert image.shape == (17, 17, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image[1:8, 1:-1], np.broadcast_to(color, (7, 15, 3)))
        np.testing.assert_array_equal(image[9:], np.broadcast_to((0, 255, 0), (8, 17, 3)))
    large = NotoEmoji(font=font, size=272, match=("^red heart$",)).image("train", 0)
    assert large.shape == (272, 272, 3) and tuple(large[60, 136]) == (255, 0, 0)


def test_emoji_that_the_font_lacks_are_left_out_and_named(font: str) -> None:
    missing = len(OpenMoji().captions("train")) - 2
    (note,) = NotoEmoji(font=font).notes()
    assert note.startswith(f"left out {missing} emoji that {font} does not have: ") and note.endswith(", ...")
    assert NotoEmoji(font=font, match=("^red heart$",)).notes() == ()
    assert NotoEmoji(font=font, match=HEARTS).notes() == (f"left out 1 emoji that {font} does not have: blue heart",)
    with pytest.raises(DataError, match="has none of the 1 emoji, such as 'blue heart'"):
        NotoEmoji(font=font, match=("^blue heart$",))


def test_wrong_fonts_and_options_are_named(font: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no font .*none\.ttf: on Debian .* 'apt-get install fonts-noto-color-emoji'"):
        NotoEmoji(font=str(tmp_path / "none.ttf"))
    (tmp_path / "text.ttf").write_text("no font")
    with pytest.raises(DataError, match=r"is not a font with color bitmaps of 109 pixels"):
        NotoEmoji(font=str(tmp_path / "text.ttf"))
    with pytest.raises(DataError, match=r"^noto-emoji: there are no captions"):
        NotoEmoji(font=font, language="xx")
    with pytest.raises(DataError, match=r"^openmoji: there are no captions in language 'xx'"):
        OpenMoji(language="xx")


@pytest.mark.skipif(not Path(FONT).is_file(), reason="the Debian package fonts-noto-color-emoji is not installed")
def test_the_font_of_debian() -> None:
    dataset, whole = NotoEmoji(match=HEARTS), NotoEmoji()
    assert dataset.captions("train") == ["red heart", "blue heart"] and "Apache License 2.0" in dataset.credit
    for index, color in enumerate(((255, 82, 82), (23, 118, 210))):
        assert np.abs(dataset.image("train", index)[16, 16].astype(int) - color).max() < 30
    assert 1800 < len(whole.captions("train")) <= len(OpenMoji().captions("train"))
