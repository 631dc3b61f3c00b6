"""Sheets of images: what is written beside them, and that they are as they were."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from kgen.reporting.sheets import LINE, MAX_LINES, _lines, grid, matrix

FONT = ImageFont.load_default(10)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
LONG = "a large blue triangle at the bottom right"


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
    short, long = (grid(IMAGES, [text, "x", "x", "x"], columns=2) for text in ("cat", LONG))
    assert long.height - short.height == 2 * 2 * LINE  # in both rows, two lines more: captions leave a gap between them
    assert long.width == short.width
    found = np.asarray(long)[4 : 4 + 96, 4 : 4 + 96]
    np.testing.assert_array_equal(found[1::3, 1::3], IMAGES[0])


def test_a_matrix_has_its_images_below_their_titles() -> None:
    sheet = np.asarray(matrix([IMAGES, IMAGES[::-1]], ["one", "two"], [LONG, "x", "x", "x"]))
    top = 3 * LINE + 6
    left = sheet.shape[1] - 4 * 100
    for row, images in enumerate((IMAGES, IMAGES[::-1])):
        for column, image in enumerate(images):
            y, x = top + 100 * row, left + 100 * column
            np.testing.assert_array_equal(sheet[y + 1 : y + 96 : 3, x + 1 : x + 96 : 3], image)
    assert (sheet[top - 2 : top, left:] == 255).all()  # no title reaches into an image
