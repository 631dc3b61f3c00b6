"""Memory that two processes share. One writes arrays to it, and the other one reads them without a copy."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

SIZE = 2**26
"""Size of the memory, in bytes. The system allocates only the part that has been used."""

ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes."""


class SharedMemory:
    """Shared memory without a name (`memfd_create` of Linux). The system frees it when both processes have ended.

    Containers limit named shared memory (``/dev/shm``), but not this.

    Args:
        file: The file descriptor that `create` returned. The constructor closes it.
    """

    def __init__(self, file: int) -> None:
        self._bytes = memoryview(mmap.mmap(file, SIZE))
        os.close(file)

    def write(self, arrays: Sequence[memoryview]) -> bool:
        """Writes arrays, in place of those of the last call. Returns False if they are too large together."""
        places = _places([array.nbytes for array in arrays])
        if places and places[-1].stop > SIZE:
            return False
        for place, array in zip(places, arrays, strict=True):
            self._bytes[place] = array
        return True

    def read(self, sizes: Sequence[int]) -> list[memoryview]:
        """The arrays that were written last, given their sizes in bytes. The next call of `write` overwrites them."""
        return [self._bytes[place] for place in _places(sizes)]


def create() -> int | None:
    """Creates shared memory, and returns its file descriptor, which a child process can inherit.

    Returns None if the system has no such memory.
    """
    try:
        file = os.memfd_create("kgen-images")
    except (AttributeError, OSError):
        return None
    try:
        os.ftruncate(file, SIZE)
    except OSError:  # the system may limit the size of files
        os.close(file)
        return None
    return file


def _places(sizes: Sequence[int]) -> list[slice]:
    places, start = [], 0
    for size in sizes:
        places.append(slice(start, start + size))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    return places
