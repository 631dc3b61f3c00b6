"""Keeps few compiled programs for many calls, whatever the number of images and the values of numeric options."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

import keras

MAX_PROGRAMS = 8
"""How many programs are kept, each with one variant per batch size (a power of two)."""

MAX_BATCHES = 4
"""How many batches of a program that is there are no slower than compiling a larger one: that takes seconds."""


class Programs:
    """The programs that were used last, by what they were compiled for."""

    def __init__(self, limit: int = MAX_PROGRAMS) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, keras.Model] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The program of a key, which is made if there is none; the one not used for longest is then dropped."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


def program_batch(count: int, most: int, compiled: Collection[int] = ()) -> int:
    """The batch size for `count` rows: one that is compiled already, where that wastes little, else a power of two.

    A compiled size serves where it takes at most `MAX_BATCHES` batches, and at most twice the rows. Else a new program
    has the smallest power of two that holds all rows, or the largest up to `most`. The last batch is filled up. There
    are at most ``log2(most) + 1`` batch sizes.

    Args:
        compiled: Batch sizes of before.
    """
    largest = 1 << (most.bit_length() - 1)
    serving = [
        size
        for size in compiled
        if size <= largest and count <= MAX_BATCHES * size and -(-count // size) * size <= 2 * count
    ]
    return max(serving) if serving else min(1 << max(0, count - 1).bit_length(), largest)
