"""Images of texts, whose tokens are letters."""

from __future__ import annotations

import functools
import string
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops
from PIL import Image, ImageDraw, ImageFont

from kgen import DataError, Decoder, Space, SpaceError

Tensor = Any

END = 0
"""The token that ends a text and pads it."""

ALPHABET = " " + string.ascii_lowercase + string.digits + ".,;:!?'\"-+*/()&%#@$="
"""Letter i is token i + 1; token 0 is the end."""

HEIGHT, WIDTH = 11, 6
"""Size of the cell of a letter, in pixels."""


@functools.cache
def glyphs() -> np.ndarray:
    """Returns the cells of all tokens, black on white, in Pillow's bitmap font: uint8 (V, height, width).

    The cell of `END` is blank.
    """
    font, cells = ImageFont.load_default_imagefont(), []
    for letter in [" ", *ALPHABET]:
        cell = Image.new("L", (WIDTH, HEIGHT), 255)
        ImageDraw.Draw(cell).text((0, 0), letter, fill=0, font=font)
        cells.append(np.asarray(cell))
    return np.stack(cells)


def spell(text: str, cells: int) -> np.ndarray:
    """Returns the tokens of a text, in lowercase and padded with `END`: int32 (cells,).

    Raises:
        DataError: the text is too long, or has a letter that is not in `ALPHABET`.
    """
    letters = text.strip().lower()
    if len(letters) > cells:
        raise DataError(f"'{text}' has {len(letters)} letters, more than the length {cells}: give a larger 'length'")
    if unknown := [letter for letter in letters if letter not in ALPHABET]:
        raise DataError(f"'{text}' has a letter {unknown[0]!r}: the letters are '{ALPHABET}'")
    tokens = np.full(cells, END, np.int32)
    tokens[: len(letters)] = [ALPHABET.index(letter) + 1 for letter in letters]
    return tokens


def read(tokens: Iterable[int]) -> str:
    """Returns the text of tokens up to the first `END`."""
    letters = []
    for token in tokens:
        if token == END:
            break
        letters.append(ALPHABET[token - 1])
    return "".join(letters)


def written(text: str, cells: int) -> np.ndarray:
    """Returns the image of a text: uint8 (height, cells * width, 1). Raises DataError like `spell`."""
    row = glyphs()[spell(text, cells)]  # (cells, h, w)
    return row.transpose(1, 0, 2).reshape(HEIGHT, cells * WIDTH, 1)


def letter_space(cells: int) -> Space:
    """Returns the space of images of texts with at most `cells` letters."""
    return Space("continuous", (HEIGHT, cells * WIDTH, 1))


class Letters(Decoder):
    """Turns images of texts into tokens, one per letter, and back. Token 0 ends the text.

    The token of a cell is that of the nearest glyph, and so images of texts are reconstructed exactly. Blank cells
    after the last letter become `END`.

    Raises:
        SpaceError: the images do not have the shape of a row of letters.
    """

    lossless = True

    def __init__(self, image_space: Space, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        height, width, channels = image_space.shape
        if (height, channels) != (HEIGHT, 1) or width % WIDTH:
            raise SpaceError(
                f"decoder 'letters' needs gray images of a row of letters, {HEIGHT} x {WIDTH} pixels each, but the "
                f"images are {image_space}: use the dataset 'captioning/captions'"
            )

    @property
    def latent_space(self) -> Space:
        return Space("tokens", (self.image_space.shape[1] // WIDTH,), vocabulary=1 + len(ALPHABET))

    def encode(self, images: Tensor) -> Tensor:
        cells = ops.reshape(ops.cast(images, "float32"), (-1, HEIGHT, self.latent_space.size, WIDTH))
        cells = ops.reshape(ops.transpose(cells, (0, 2, 1, 3)), (-1, self.latent_space.size, HEIGHT * WIDTH))
        table = ops.convert_to_tensor(_shades()[1:].reshape(len(ALPHABET), -1))  # (A, h w)
        distances = ops.sum(ops.square(table), axis=1) - 2.0 * ops.matmul(cells, ops.transpose(table))
        letters = ops.cast(ops.argmin(distances, axis=-1), "int32")  # (B, cells), 0 where blank
        from_here = ops.flip(ops.cumsum(ops.flip(letters, axis=1), axis=1), axis=1)  # 0 where only blanks follow
        return ops.where(from_here > 0, letters + 1, END)

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        cells = ops.take(ops.convert_to_tensor(_shades()), ops.cast(latent, "int32"), axis=0)  # (B, cells, h, w)
        return ops.reshape(ops.transpose(cells, (0, 2, 1, 3)), (-1, *self.image_space.shape))

    def text_of(self, image: np.ndarray) -> str:
        """Reads the text of an image, uint8 (*image_space.shape)."""
        tokens = self.encode(ops.convert_to_tensor((image[None] / 127.5 - 1.0).astype(np.float32)))
        return read(ops.convert_to_numpy(tokens)[0].tolist())


def _shades() -> np.ndarray:
    """`glyphs` in [-1, 1], float32."""
    return (glyphs() / 127.5 - 1.0).astype(np.float32)
