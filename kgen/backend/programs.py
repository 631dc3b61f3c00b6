"""A cache of compiled programs, which are reused for other numbers of images and other values of numeric options."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras

MAX_PROGRAMS = 8
"""Number of programs in a cache, each with one variant per batch size (a power of two)."""


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

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


def program_batch(count: int, most: int) -> int:
    """The batch size for `count` rows: the smallest power of two that holds them, or the largest one up to `most`.

    The last batch is padded, to less than twice its rows. There are at most ``log2(most) + 1`` batch sizes.
    """
    return min(1 << max(0, count - 1).bit_length(), 1 << (most.bit_length() - 1))
