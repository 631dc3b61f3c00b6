"""The dataset: images of colored stripes, whose captions name the color, the direction and the number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from kgen import DataError, Dataset, Space, Split
from pydantic import Field

Color = Literal["red", "green", "blue", "orange", "purple"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 40),
    "green": (40, 165, 70),
    "blue": (45, 95, 225),
    "orange": (255, 140, 20),
    "purple": (145, 60, 190),
}
"""RGB colors of the stripes; the background is white."""

DIRECTIONS: dict[str, tuple[int, int]] = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}
"""The change of the phase along the width and the height."""

NUMBERS = {"two": 2, "three": 3, "four": 4}
"""Number of stripes per image width."""


class Pattern(NamedTuple):
    """What a caption says of an image."""

    number: str
    color: str
    direction: str

    def __str__(self) -> str:
        return f"{self.number} {self.color} {self.direction} stripes"


class Stripes(Dataset):
    """Images such as "two red vertical stripes". The label is the direction.

    Each pattern occurs with several positions of the stripes.

    Args:
        size: Height and width in pixels.
        colors: The colors of the stripes.
        positions: Number of training images per pattern, which differ in the position of the stripes.
        validation: Number of validation images per pattern, with other positions.
        holdout: Combinations to keep out of training, such as "red vertical". Patterns with all of these words form the
            split "holdout".

    Raises:
        DataError: `holdout` has an unknown word, or leaves no pattern for the training.
    """

    fields = ("image", "caption", "label")

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=8, le=512)] = 32,
        colors: tuple[Color, ...] = get_args(Color),
        positions: Annotated[int, Field(ge=1)] = 8,
        validation: Annotated[int, Field(ge=0)] = 1,
        holdout: tuple[str, ...] = (),
    ) -> None:
        self.size = size
        self.colors = colors
        self.positions = positions
        self.validation = validation
        self.holdout = holdout
        known = {*NUMBERS, *colors, *DIRECTIONS}
        for text in holdout:
            if unknown := set(text.split()) - known or not text.split():
                raise DataError(f"holdout: '{text}' must be words of {', '.join(sorted(known))}, not {unknown}")
        patterns = [Pattern(*words) for words in itertools.product(NUMBERS, colors, DIRECTIONS)]
        held = [pattern for pattern in patterns if any(set(text.split()) <= set(pattern) for text in holdout)]
        seen = [pattern for pattern in patterns if pattern not in held]
        if not seen:
            raise DataError("stripes: no pattern is left for the training: name fewer in 'holdout', or more 'colors'")
        self._patterns: dict[Split, list[Pattern]] = {
            "train": [pattern for pattern in seen for _ in range(positions)],
            "validation": [pattern for pattern in seen for _ in range(validation)],
            "holdout": held,
        }

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: Split) -> Sequence[str]:
        return [str(pattern) for pattern in self._patterns[split]]

    def values(self, split: Split, field: str) -> Sequence[str]:
        return [p.direction for p in self._patterns[split]] if field == "label" else super().values(split, field)

    def image(self, split: Split, index: int) -> np.ndarray:
        return draw(self._patterns[split][index], self._phase(split, index), self.size)

    def _phase(self, split: Split, index: int) -> float:
        """The position of the stripes, as a share of their period. Those of validation images lie in between."""
        if split == "train":
            return index % self.positions / self.positions
        if split == "validation":
            return (index % self.validation + 0.5) / (self.positions * self.validation)
        return 0.0


def draw(pattern: Pattern, phase: float, size: int) -> np.ndarray:
    """Draws a pattern: uint8 (size, size, 3).

    The share of the color at a point is a cosine wave. It is 1 at the middle of a stripe, and 0 between two stripes.
    """
    across, down = DIRECTIONS[pattern.direction]
    y, x = (np.indices((size, size)) + 0.5) / size  # (size, size)
    share = 0.5 + 0.5 * np.cos(2.0 * np.pi * (NUMBERS[pattern.number] * (across * x + down * y) + phase))
    color, white = np.array(COLORS[pattern.color], np.float64), 255.0
    image: np.ndarray = np.rint(white + share[..., None] * (color - white))
    return image.astype(np.uint8)
