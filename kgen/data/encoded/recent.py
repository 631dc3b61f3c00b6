"""Keeps what was used last, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values that were used last. It is thread-safe. A copy for another process holds none of them.

    Args:
        limit: Largest total size, in bytes. The value that was used last stays even if it is larger.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Value, int]]) -> Value:
        """The value of a key. If it is not kept, `make` returns it, with its size."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value, size = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value, size
                self._size += size
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1][1]
        return value

    def __reduce__(self) -> tuple[type[Recent[Value]], tuple[int]]:
        return type(self), (self._limit,)
