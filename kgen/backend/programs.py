"""A cache of compiled programs, which are reused for other numbers of images and other values of numeric options."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

import keras

MAX_PROGRAMS = 8
"""Number of programs in a cache, each with one variant per batch size (a power of two)."""

MAX_BATCHES = 4
"""Number of batches up to which a compiled program is not slower than compiling a larger one, which takes seconds."""


class Programs:
    """The most recently used programs, by the options that they were compiled for."""

    def __init__(self, limit: int = MAX_PROGRAMS) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, keras.Model] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns the program of a key. If there is none, makes it, and drops the least recently used one."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Drops all programs, which were compiled for layers that are different now."""
        self._kept.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


def program_batch(count: int, most: int, compiled: Collection[int] = ()) -> int:
    """The batch size for `count` rows: a compiled size if it wastes little, else a power of two.

    A compiled size is used if it needs at most `MAX_BATCHES` batches, and at most twice `count` rows with padding. A
    new size is the smallest power of two that contains all rows, or the largest one up to `most`. The last batch is
    padded. There are at most ``log2(most) + 1`` batch sizes.

    Args:
        count: Number of rows.
        most: Largest number of rows in a batch.
        compiled: Batch sizes that are compiled already.
    """
    largest = 1 << (most.bit_length() - 1)
    serving = [
        size
        for size in compiled
        if size <= largest and count <= MAX_BATCHES * size and -(-count // size) * size <= 2 * count
    ]
    return max(serving) if serving else min(1 << max(0, count - 1).bit_length(), largest)
