"""The order of the examples in training: which row of a split is used at a position, a function of the seed alone."""

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
"""Number of rows up to which a pass is drawn as a whole. grain's shuffle takes 0.3 ms per row if there are few rows."""

KEPT = 8
"""Number of passes whose order is kept, because several threads read batches at the same time."""

DENOMINATOR = 10**6
"""Largest denominator of a share. Shares are fractions, so that no rounding error grows with the position."""


class Order(Protocol):
    """Rows by position. The positions of a training are 0, 1, 2 and so on, without an end."""

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """The rows at some positions."""


def training_order(count: int, seed: int, shares: Sequence[tuple[int, float]] = ()) -> Order:
    """Passes over the rows of a split, each in a new order.

    Args:
        count: The number of rows.
        seed: The seed of the orders.
        shares: For consecutive parts of the rows, their number of rows and their share of all positions. Each part has
            passes of its own; after n positions, a part has had its share of n, up to one for each part. Empty: all
            rows are one part.
    """
    if shares:
        return _Mixed(seed, shares)
    return _Few(count, seed) if count <= FEW else _Many(count, seed)


def drawn(seed: int, positions: Sequence[int]) -> np.ndarray:
    """A number below 2^56 for each position, (B,): a hash of the seed and the position."""
    digests = (hashlib.blake2b(f"{seed} {position}".encode(), digest_size=7).digest() for position in positions)
    return np.array([int.from_bytes(digest) for digest in digests])


class _Few:
    """Sorts the rows of each pass by random numbers of 64 bits (Salmon et al. 2011, Philox), keyed by seed and pass."""

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
    """Shuffles by grain's block cipher, which needs no memory."""

    def __init__(self, count: int, seed: int) -> None:
        self.rows = grain.MapDataset.range(count).seed(seed).shuffle().repeat(ENDLESS)

    def __call__(self, positions: Sequence[int]) -> list[int]:
        return [int(self.rows[position]) for position in positions]


class _Mixed:
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
        """Gives a part the positions at which the integer part of share times position grows, and the rest the others.

        This is the line of Bresenham (1965), once per part.
        """
        for order, first, share in self.parts:
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return first + order([before])[0]
            position -= before
        raise AssertionError("the last part has every position that is left")
