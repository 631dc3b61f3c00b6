"""The order of the examples in training. The rows of a batch depend only on the seed and the step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import grain
import numpy as np

ENDLESS = 2**32
"""Number of passes over the data in "endless" training. The number of all positions must fit into an index."""

MAX_SORTED = 2**16
"""Largest number of rows that are sorted in memory for each pass. grain would take 0.3 ms per row to shuffle them."""

KEPT_ORDERS = 8
"""Number of passes whose order stays in memory. Several threads may read batches of different passes at once."""

DENOMINATOR = 10**6
"""Largest denominator of a share. A share is a fraction, because a rounding error would grow with the position."""


class Order(Protocol):
    """Function that returns rows by their positions. The positions of a training are 0, 1, 2 and so on, without end."""

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """The rows at some positions."""


def training_order(count: int, seed: int, shares: Sequence[tuple[int, float]] = ()) -> Order:
    """Makes the order of the rows of a split: training passes over them again and again, each time in a new order.

    Args:
        count: The number of rows.
        seed: The seed of the orders.
        shares: The number of rows in each of several consecutive parts, and the part's share of all positions. Each
            part has separate passes. After n positions, the number of positions of a part differs from its share of n
            by less than the number of parts. Empty: all rows are one part.
    """
    if shares:
        return _MixedOrder(seed, shares)
    return _SortedOrder(count, seed) if count <= MAX_SORTED else _GrainOrder(count, seed)


def random_numbers(seed: int, positions: Sequence[int]) -> np.ndarray:
    """A random number below 2^56 for each position, (B,). It is a hash of the seed and the position."""
    digests = (hashlib.blake2b(f"{seed} {position}".encode(), digest_size=7).digest() for position in positions)
    return np.array([int.from_bytes(digest) for digest in digests])


class BatchOrder:
    """The rows of each batch in training.

    Without groups, the batches are consecutive parts of `training_order`. With groups, all rows of a batch are from one
    group. Each group has separate passes, and each pass uses every row of the group once. A batch may contain the end
    of one pass and the beginning of the next. The groups take turns in proportion to their numbers of rows, so that
    all rows are used equally often. After n batches, the number of batches of a group differs from its share of n by
    less than the number of groups.

    Args:
        count: The number of rows.
        batch_size: The number of rows in a batch.
        seed: The seed of the orders.
        shares: See `training_order`. With groups, they hold for all batches together.
        groups: Groups of rows. Together, they have every row once. No group is empty, and each is in ascending order.
            Without groups, a batch may have any rows.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        shares: Sequence[tuple[int, float]] = (),
        groups: Sequence[np.ndarray] = (),
    ) -> None:
        self.batch_size = batch_size
        if not groups:
            self.groups: list[tuple[Order, np.ndarray | None]] = [(training_order(count, seed, shares), None)]
            self.turns = _Turns([Fraction(1)])
            return
        parts = [(count, Fraction(1))] if not shares else [(number, _fraction(share)) for number, share in shares]
        ends = np.cumsum([number for number, _ in parts])
        self.groups, weights = [], []
        for number, rows in enumerate(groups):
            inside = np.diff(np.searchsorted(rows, ends), prepend=0).tolist()
            own = [(few, share * Fraction(few, many)) for few, (many, share) in zip(inside, parts, strict=True) if few]
            weight = sum((share for _, share in own), Fraction(0))
            within = [(few, float(share / weight)) for few, share in own] if len(own) > 1 else ()
            self.groups.append((training_order(len(rows), seed + number, within), rows))
            weights.append(weight)
        self.turns = _Turns(weights)

    def __call__(self, step: int, places: Sequence[int]) -> list[int]:
        """The rows at some places, from 0 to `batch_size` - 1, of the batch of a step."""
        group, batch = self.turns(step)
        order, rows = self.groups[group]
        positions = order([batch * self.batch_size + place for place in places])
        return positions if rows is None else rows[positions].tolist()


class _SortedOrder:
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
            kept = list(self._orders.items())[1 - KEPT_ORDERS :]
            self._orders = {**dict(kept), number: order}  # a new mapping: other threads read the old one
        return order


class _GrainOrder:
    """Shuffles with grain's block cipher, which needs no memory."""

    def __init__(self, count: int, seed: int) -> None:
        self.rows = grain.MapDataset.range(count).seed(seed).shuffle().repeat(ENDLESS)

    def __call__(self, positions: Sequence[int]) -> list[int]:
        return [int(self.rows[position]) for position in positions]


class _MixedOrder:
    """Combines the orders of several parts, each of which has a share of the positions."""

    def __init__(self, seed: int, shares: Sequence[tuple[int, float]]) -> None:
        counts = [count for count, _ in shares]
        self.orders = [training_order(count, seed + number) for number, count in enumerate(counts)]
        self.firsts = list(itertools.accumulate(counts[:-1], initial=0))
        self.turns = _Turns([_fraction(share) for _, share in shares])

    def __call__(self, positions: Sequence[int]) -> list[int]:
        turns = [self.turns(position) for position in positions]
        return [self.firsts[part] + self.orders[part]([number])[0] for part, number in turns]


class _Turns:
    """Distributes positions among parts in proportion to their shares.

    The first part gets the positions p at which floor((p + 1) * share) is larger than floor(p * share), as in
    Bresenham's line algorithm (1965). The next part does the same with the remaining positions, and so on.

    Args:
        shares: The share of each part. Their sum is 1, but for rounding.
    """

    def __init__(self, shares: Sequence[Fraction]) -> None:
        left = Fraction(1)
        self.own: list[Fraction] = []
        """For each part, its share of the positions that no earlier part gets."""
        for share in shares[:-1]:
            self.own.append(share / left)
            left -= share
        self.own.append(Fraction(1))

    def __call__(self, position: int) -> tuple[int, int]:
        """The part that gets a position, and the number of earlier positions that it got."""
        for part, share in enumerate(self.own):
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return part, before
            position -= before
        raise AssertionError("the last part gets every remaining position")


def _fraction(share: float) -> Fraction:
    return Fraction(share).limit_denominator(DENOMINATOR)
