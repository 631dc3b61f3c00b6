"""Stores the conditions of a frozen encoder, one per row, and computes those that are missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from kgen.contracts.encoder import Encoder
from kgen.data.cache import open_or_write
from kgen.data.frozen.filling import Filling
from kgen.data.frozen.stored import Arrays, StoredRows, create_rows
from kgen.data.reading.workers import usual_workers
from kgen.plugins.discovery import component_id

NAMES = ("sequence", "mask", "pooled")
FORMAT = 5

BATCH = 16
"""Number of inputs that are encoded at once. A single program encodes all inputs, so that a condition does not depend
on the size of the batch that first needs it."""


class ConditionRows:
    """Conditions by row, which stay on disk. Several threads and processes can use them.

    A missing condition is computed when it is first read. Every condition is read from the disk, also right after it
    was computed. A training therefore does not depend on what was in the cache when it began.

    Args:
        folder: The folder of the cache.
        encoding: Computes conditions that are missing; None: no condition is missing.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not exist, or is damaged.
    """

    def __init__(self, folder: Path, encoding: Encoding | None = None) -> None:
        self.folder, self.encoding = folder, encoding
        self.stored = StoredRows(folder)

    def __len__(self) -> int:
        """Number of conditions, including that of the null input."""
        return len(self.stored)

    @property
    def written(self) -> int:
        return int(np.count_nonzero(self.stored.marks()))

    def read(self, rows: Sequence[int], inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The conditions of B rows: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P), all float32.

        Args:
            rows: The rows.
            inputs: The input of each row. Only those whose conditions are missing are read.

        Raises:
            DataError: a condition is missing or damaged, and cannot be computed now; or the disk is full.
        """
        if self.encoding is None:
            return self.stored.read(rows)
        encoding, place = self.encoding, {row: place for place, row in enumerate(rows)}
        return self.stored.read(rows, lambda missing: encoding([inputs[place[row]] for row in missing]))

    def fill(self) -> None:
        if self.encoding is None:
            return
        for rows, inputs in _read_ahead(self.encoding.inputs, self.stored.missing(BATCH)):
            self.read(rows, inputs)


def _read_ahead(
    read: Callable[[Sequence[int]], list[Any]], batches: Iterable[Sequence[int]]
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Yields each batch of rows with its inputs, in order. Threads read the inputs of the next batches."""
    count = usual_workers() + 1
    waiting: deque[tuple[Sequence[int], Future[list[Any]]]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="kgen-inputs") as threads:
        for rows in batches:
            waiting.append((rows, threads.submit(read, rows)))
            if len(waiting) > count:
                first, inputs = waiting.popleft()
                yield first, inputs.result()
        while waiting:
            first, inputs = waiting.popleft()
            yield first, inputs.result()


class Encoding:
    """Computes conditions of inputs.

    Args:
        encoder: The encoder.
        program: The compiled encoder, for the tokens of `BATCH` inputs.
        inputs: Function that reads the inputs of rows.
    """

    def __init__(
        self,
        encoder: Encoder,
        program: Callable[[dict[str, np.ndarray]], Any],
        inputs: Callable[[Sequence[int]], list[Any]],
    ) -> None:
        self.encoder, self.program, self.inputs = encoder, program, inputs

    def __call__(self, inputs: Sequence[Any]) -> Arrays:
        """The arrays of B inputs, as they are stored."""
        parts = []
        for first in range(0, len(inputs), BATCH):
            part = list(inputs[first : first + BATCH])
            filled = part + [self.encoder.null] * (BATCH - len(part))  # batches of one size need only one program
            condition = self.program(self.encoder.tokenize(filled))
            parts.append({name: float32(condition[name])[: len(part)] for name in NAMES})
        return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


Cache = TypeVar("Cache", bound=ConditionRows)


class Source(ABC, Generic[Cache]):
    """The inputs whose conditions are cached, by row. Row 0 is the null input."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def key(self) -> str:
        """A hash of everything that determines the conditions."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> list[Any]:
        """The inputs of rows."""

    @abstractmethod
    def open(self, folder: Path) -> Cache:
        """Opens a cache. Raises OSError, ValueError, KeyError or TypeError if it is missing or damaged."""

    def describe(self, folder: Path) -> None:
        """Writes what `open` needs to a new folder. Default: nothing."""


def open_conditions(
    encoder: Encoder, source: Source[Cache], cache_dir: str | Path, filling: Filling | None = None
) -> Cache:
    """Opens the cache of the conditions of some inputs, or makes an empty one.

    When a cache is opened, two of its conditions are computed again and compared, which detects a change of the
    encoder's code. The cache stores floats as bfloat16, with an error of at most 0.4%.

    Args:
        encoder: The encoder, whose weights must not change.
        source: The inputs.
        cache_dir: The folder of caches, which is created if needed.
        filling: Decides when the conditions that are missing are computed; None: now.

    Raises:
        RunError: `cache_dir` cannot be written.
        DataError: the disk is full.
    """
    filling = filling or Filling(training=False)
    null = encoder(encoder.null_tokens())  # creates the weights
    shapes = {name: tuple(null[name].shape[1:]) for name in NAMES}

    def write(folder: Path) -> None:
        create_rows(folder, len(source), {name: ("bfloat16", shape) for name, shape in shapes.items()})
        source.describe(folder)

    cache = open_or_write(
        Path(cache_dir),
        f"conditions-{source.key()}",
        open_=lambda folder: _usable(folder, encoder, source),
        write=write,
    )
    if cache.written < len(cache) or not filling.training:
        program = filling.program(encoder, lambda tokens: encoder(tokens, training=False))
        cache.encoding = Encoding(encoder, program, source.read)
    filling.begin(cache, encoder, f"conditions of encoder '{component_id(encoder)}'")
    return cache


def _usable(folder: Path, encoder: Encoder, source: Source[Cache]) -> Cache | None:
    """Opens the cache in `folder`. Returns None if it is damaged, or if the encoder now has other outputs."""
    try:
        cache = source.open(folder)
        ends = cache.stored.ends()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(cache) != len(source):
        return None
    if not ends:
        return cache
    stored = cache.stored.read(ends)
    made = encoder(encoder.tokenize(source.read(ends)))
    same = (np.allclose(stored[name], float32(made[name]), rtol=1e-2, atol=1e-2) for name in NAMES)
    return cache if all(same) else None


def float32(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array)).astype(np.float32)
