"""Memory that two processes share, through which arrays pass without a copy by the system."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

SIZE = 2**26
"""Size of the memory, in bytes. Only the part that was ever used takes memory."""

ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes."""


class SharedMemory:
    """Memory without a name (`memfd_create` of Linux). It ends with the processes, even if they are killed.

    Containers limit named shared memory (``/dev/shm``), but not this.

    Args:
        file: The number of the open file, as `create` returns it. The memory closes it.
    """

    def __init__(self, file: int) -> None:
        self._bytes = memoryview(mmap.mmap(file, SIZE))
        os.close(file)

    def write(self, arrays: Sequence[memoryview]) -> bool:
        """Writes arrays one after the other, over those of the last call. Returns False if they are too large."""
        places = _places([array.nbytes for array in arrays])
        if places and places[-1].stop > SIZE:
            return False
        for place, array in zip(places, arrays, strict=True):
            self._bytes[place] = array
        return True

    def read(self, sizes: Sequence[int]) -> list[memoryview]:
        """The arrays of these sizes that were written last, without a copy: the next call overwrites them."""
        return [self._bytes[place] for place in _places(sizes)]


def create() -> int | None:
    """Opens a new memory file; None if the system has none. Another process may inherit its number."""
    try:
        file = os.memfd_create("kgen-images")
    except (AttributeError, OSError):
        return None
    try:
        os.ftruncate(file, SIZE)
    except OSError:  # files may have a limit
        os.close(file)
        return None
    return file


def _places(sizes: Sequence[int]) -> list[slice]:
    places, start = [], 0
    for size in sizes:
        places.append(slice(start, start + size))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    return places
