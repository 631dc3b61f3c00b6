"""The rows of a split in the order of the training: a function of the seed and of the position only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import grain
import numpy as np

ENDLESS = 2**32
"""Number of passes over the data in "endless" training. The total length must fit into an index."""

DENOMINATOR = 10**6
"""Largest denominator of a share. Shares are fractions, so that no rounding error grows with the position."""


def training_rows(count: int, seed: int, shares: Sequence[tuple[int, float]] = ()) -> grain.MapDataset:
    """Endless passes over the rows of a split, each in a new order.

    Args:
        count: The number of rows.
        seed: The seed of the orders.
        shares: For consecutive parts of the rows, their number of rows and their share of all positions. Each part has
            passes of its own; after n positions, a part has had its share of n, up to one for each part. Empty: all
            rows are one part.
    """
    if not shares:
        return _shuffled(0, count, seed)
    return grain.MapDataset.range(count * ENDLESS).map(_Mixed(seed, shares))


def _shuffled(first: int, last: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(first, last).seed(seed).shuffle().repeat(ENDLESS)


class _Mixed:
    """The row at a position of a mixture. It can be pickled."""

    def __init__(self, seed: int, shares: Sequence[tuple[int, float]]) -> None:
        first, left = 0, Fraction(1)
        self.parts: list[tuple[grain.MapDataset, Fraction]] = []
        """The rows of each part, and the share of it among the positions that no earlier part has."""
        for number, (count, share) in enumerate(shares):
            exact = Fraction(share).limit_denominator(DENOMINATOR)
            own = Fraction(1) if number == len(shares) - 1 else exact / left
            self.parts.append((_shuffled(first, first + count, seed + number), own))
            first, left = first + count, left - exact

    def __call__(self, position: int) -> int:
        """Gives a part the positions at which the integer part of share times position grows, and the rest the others.

        This is the line of Bresenham (1965), once per part.
        """
        for rows, share in self.parts:
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return int(rows[before])
            position -= before
        raise AssertionError("the last part has every position that is left")


class Visits:
    """The row at a position, and two numbers that choose a view and a caption: (3,). It can be pickled.

    The numbers are a hash of the seed and the position.

    Args:
        rows: The rows in the order of the training.
        views: The number of views; the first number is below it.
        seed: The seed.
    """

    def __init__(self, rows: grain.MapDataset, views: int, seed: int) -> None:
        self.rows, self.views, self.seed = rows, views, seed

    def __call__(self, position: int) -> np.ndarray:
        drawn = hashlib.blake2b(f"{self.seed} {position}".encode(), digest_size=7).digest()
        caption, view = divmod(int.from_bytes(drawn), self.views)
        return np.array([self.rows[position], view, caption])
