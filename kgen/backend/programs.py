"""A cache of compiled programs, which are reused for other numbers of images and other values of numeric options."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

import keras

from kgen.errors import XlaLimitWarning

MAX_PROGRAMS = 8
"""Number of programs in a cache, each with one variant per batch size (a power of two)."""

MAX_BATCHES = 4
"""Number of batches up to which a compiled program is not slower than compiling a larger one, which takes seconds."""

MAX_XLA_PROGRAMS = 16
"""Number of programs that XLA compiles in a process on TensorFlow; each stays, with 10 to 100 MiB, until its end."""


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
                _clear_kernels()
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Drops all programs, which were compiled for layers that are different now."""
        self._kept.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


class XlaPrograms:
    """Counts the programs that XLA compiles in this process.

    TensorFlow never frees a program that XLA has compiled. A process that needs ever new programs, such as one that
    samples with many sets of options, would therefore take ever more memory. After `limit` of them, programs run as
    graphs without XLA, which TensorFlow does free.

    Args:
        limit: The largest number of them. On JAX, which frees what XLA has compiled, there is none.
    """

    def __init__(self, limit: int = MAX_XLA_PROGRAMS) -> None:
        self.limit = limit
        self.count = 0

    def admit(self) -> bool:
        """Whether XLA may compile one more program, which is then counted.

        Warns:
            XlaLimitWarning: there are as many programs as there may be; only the first time.
        """
        if keras.backend.backend() != "tensorflow":
            return True
        self.count += 1
        if self.count == self.limit + 1:
            warnings.warn(
                f"XLA has compiled {self.limit} programs in this process, most of them for sampling with one set of "
                "options each. TensorFlow never frees them, so kgen runs further programs without XLA: sampling in "
                "many steps is slower, and images differ by rounding errors. A new process uses XLA again",
                XlaLimitWarning,
                stacklevel=2,
            )
        return self.count <= self.limit


def _clear_kernels() -> None:
    """Clears TensorFlow's cache of kernels, which would keep a part of each dropped program, as Keras's
    `clear_session` does. TensorFlow creates the kernels of other programs again when they run."""
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.eager import context

        context.context().clear_kernel_cache()


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
