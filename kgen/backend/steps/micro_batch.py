"""The micro-batch that is computed now: which examples of the batch it has, and which random numbers it draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from kgen.errors import ConfigError

Tensor = Any

SEED_STRIDE = 7_368_787
"""A prime. The seeds of consecutive micro-batches differ by it, and those of replicas by another prime."""


@dataclass(frozen=True)
class MicroBatch:
    """One of the parts into which a step divides its batch.

    It has every `count`-th example, from number `index` on, so that each of several devices keeps its own examples.

    Args:
        index: Its number, from 0; an int, or an int32 scalar in a graph.
        count: Number of micro-batches in the batch.
        draws_all: Whether random numbers are being drawn for all examples of the batch, not only for its own.
    """

    index: Tensor
    count: int
    draws_all: bool = False

    def rows(self, arrays: Any) -> Any:
        """Its rows of nested arrays (B, ...): (B / count, ...). None stays None.

        Raises:
            ConfigError: B is not a multiple of `count`.
        """
        return keras.tree.map_structure(self._rows, arrays, none_is_leaf=True)

    def _rows(self, array: Tensor | None) -> Tensor | None:
        if array is None:
            return None
        size = array.shape[0]
        if size is not None and size % self.count:
            raise ConfigError(
                f"gradient_accumulation: {self.count} micro-batches cannot share a batch of {size} examples (of one "
                f"device); choose a batch size that is a multiple of {self.count} times the number of devices"
            )
        return ops.reshape(array, (-1, self.count, *ops.shape(array)[1:]))[:, self.index]

    def seed_offset(self, dtype: Any) -> Tensor:
        """The number (2,) that is added to the state of a random generator: micro-batches draw different numbers."""
        return ops.stack([ops.cast(ops.multiply(self.index, SEED_STRIDE), dtype), ops.cast(0, dtype)])


_current: ContextVar[MicroBatch | None] = ContextVar("micro_batch", default=None)


def current() -> MicroBatch | None:
    """The micro-batch that is being computed or traced; None: the whole batch is."""
    return _current.get()


@contextmanager
def computing(micro_batch: MicroBatch | None) -> Iterator[None]:
    """Makes a micro-batch the current one in the block; None: the whole batch."""
    token = _current.set(micro_batch)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def drawing_for_all() -> Iterator[MicroBatch | None]:
    """In the block, random numbers are drawn for the whole batch: the seeds are those of its first micro-batch."""
    found = current()
    if found is None:
        yield None
        return
    with computing(replace(found, draws_all=True)):
        yield found
