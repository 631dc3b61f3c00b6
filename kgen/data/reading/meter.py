"""Measures how fast the loader can read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Counts the examples that were read, and the time that it took. Several threads may read at the same time.

    Attributes:
        count: Number of examples that were read so far.
        busy: The time in which at least one batch was being read, in seconds. It does not include the time in which
            nothing is read because enough batches are ready.
    """

    def __init__(self) -> None:
        self.count = 0
        self.busy = 0.0
        self._active = 0
        self._since = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, count: int) -> Iterator[None]:
        """Measures the time of reading `count` examples."""
        self._change(1, 0)
        try:
            yield
        finally:
            self._change(-1, count)

    def now(self) -> tuple[int, float]:
        """`count` and `busy` up to this moment."""
        with self._lock:
            return self.count, self.busy + (time.perf_counter() - self._since if self._active else 0.0)

    def _change(self, change: int, count: int) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._active:
                self.busy += now - self._since
            self._since = now
            self._active += change
            self.count += count
