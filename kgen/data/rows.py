"""The order of the examples in training. The row of a split that is used at a position depends only on the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import grain
import numpy as np

ENDLESS = 2**32
"""Number of passes over the data in "endless" training. The number of all positions must fit into an index."""

FEW = 2**16
"""Largest number of rows that are sorted in memory for each pass. grain would take 0.3 ms per row to shuffle them."""

KEPT = 8
"""Number of passes whose order is kept. Several threads may read batches of different passes at the same time."""

DENOMINATOR = 10**6
"""Largest denominator of a share. A share is a fraction, because a rounding error would grow with the position."""


class Order(Protocol):
    """Function that returns rows by their positions. The positions of a training are 0, 1, 2 and so on, without end."""

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """The rows at some positions."""


def training_order(count: int, seed: int, shares: Sequence[tuple[int, float]] = ()) -> Order:
    """Passes over the rows of a split, each in a new order.

    Args:
        count: The number of rows.
        seed: The seed of the orders.
        shares: The number of rows of each of several consecutive parts, and the part's share of all positions. Each
            part has passes of its own. Of the first n positions, a part has its share, up to an error of one for each
            part. Empty: all rows are one part.
    """
    if shares:
        return _Mixed(seed, shares)
    return _Few(count, seed) if count <= FEW else _Many(count, seed)


def drawn(seed: int, positions: Sequence[int]) -> np.ndarray:
    """A random number below 2^56 for each position, (B,). It is a hash of the seed and the position."""
    digests = (hashlib.blake2b(f"{seed} {position}".encode(), digest_size=7).digest() for position in positions)
    return np.array([int.from_bytes(digest) for digest in digests])


class _Few:
    """Sorts the rows of each pass by random numbers (Philox, Salmon et al. 2011), whose key is seed and pass."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._orders: dict[int, list[int]] = {}

    def __call__(self, positions: Sequence[int]) -> list[int]:
        return [self._order(position // self.count)[position % self.count] for position in positions]

    def _order(self, number: int) -> list[int]:
        """The rows of a pass."""
        order = self._orders.get(number)
        if order is None:
            random = np.random.Philox(key=np.array([self.seed, number], np.uint64)).random_raw(self.count)
            order = np.argsort(random, kind="stable").tolist()
            kept = list(self._orders.items())[1 - KEPT :]
            self._orders = {**dict(kept), number: order}  # a new mapping: other threads read the old one
        return order


class _Many:
    """Shuffles with grain's block cipher, which needs no memory."""

    def __init__(self, count: int, seed: int) -> None:
        self.rows = grain.MapDataset.range(count).seed(seed).shuffle().repeat(ENDLESS)

    def __call__(self, positions: Sequence[int]) -> list[int]:
        return [int(self.rows[position]) for position in positions]


class _Mixed:
    """Combines the orders of several parts, each of which has a share of the positions."""

    def __init__(self, seed: int, shares: Sequence[tuple[int, float]]) -> None:
        left, first = Fraction(1), 0
        self.parts: list[tuple[Order, int, Fraction]] = []
        """The order of each part, its first row, and its share of the positions that no earlier part has."""
        for number, (count, share) in enumerate(shares):
            exact = Fraction(share).limit_denominator(DENOMINATOR)
            own = Fraction(1) if number == len(shares) - 1 else exact / left
            self.parts.append((training_order(count, seed + number), first, own))
            left, first = left - exact, first + count

    def __call__(self, positions: Sequence[int]) -> list[int]:
        return [self._row(position) for position in positions]

    def _row(self, position: int) -> int:
        """The row at a position.

        A part gets the positions p at which floor((p + 1) * share) is larger than floor(p * share), as in Bresenham's
        line algorithm (1965). The next part does the same with the positions that are left, and so on.
        """
        for order, first, share in self.parts:
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return first + order([before])[0]
            position -= before
        raise AssertionError("the last part has every position that is left")
