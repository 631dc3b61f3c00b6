"""Sheets of images: what is written beside them, and that they are as they were."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kgen.errors import UnshownTextWarning
from kgen.reporting.sheets import LINE, MAX_LINES, _font, _lines, grid, matrix

FONT = _font()
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
LONG = "a large blue triangle at the bottom right"
LONGER = "a large yellow circle in the middle and a small blue star at the bottom"


@pytest.mark.parametrize("width", [60, 96, 400])
def test_captions_are_broken_between_words(width: int) -> None:
    lines = _lines(LONG, width, FONT)
    assert all(FONT.getlength(line) <= width for line in lines)
    assert len(lines) == {60: 3, 96: 2, 400: 1}[width]
    if width > 60:
        assert " ".join(lines) == LONG
    else:
        assert lines[-1].endswith("…") and LONG.startswith(" ".join(lines)[:-2])


def test_a_word_that_is_too_long_is_shortened() -> None:
    (line,) = _lines("m" * 200, 96, FONT)
    assert line.endswith("…") and 80 < FONT.getlength(line) <= 96
    assert _lines("", 96, FONT) == []
    assert len(_lines("word " * 100, 96, FONT)) == MAX_LINES


def test_a_grid_makes_room_for_the_longest_caption() -> None:
    short, long = (grid(IMAGES, [text, "x", "x", "x"], columns=2) for text in ("cat", LONGER))
    assert long.height - short.height == 2 * 2 * LINE  # in both rows, two lines more: captions leave a gap between them
    assert long.width == short.width
    found = np.asarray(long)[4 : 4 + 96, 4 : 4 + 96]
    np.testing.assert_array_equal(found[1::3, 1::3], IMAGES[0])


def test_a_matrix_has_its_images_below_their_titles() -> None:
    sheet = np.asarray(matrix([IMAGES, IMAGES[::-1]], ["one", "two"], [LONGER, "x", "x", "x"]))
    top = 3 * LINE + 6
    left = sheet.shape[1] - 4 * 100
    for row, images in enumerate((IMAGES, IMAGES[::-1])):
        for column, image in enumerate(images):
            y, x = top + 100 * row, left + 100 * column
            np.testing.assert_array_equal(sheet[y + 1 : y + 96 : 3, x + 1 : x + 96 : 3], image)
    assert (sheet[top - 2 : top, left:] == 255).all()  # no title reaches into an image


def test_characters_that_a_grid_cannot_show_are_named() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.warns(UnshownTextWarning, match="boxes in place of 2 characters of their captions, such as '心'"):
        grid(images, ["红心 heart", "é, ñ and ß"])
    with pytest.warns(UnshownTextWarning, match="such as '🎈'"):
        matrix([images], ["run 🎈"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid(images, ["red heart, (1) “x” été", "Größe"])
