"""Writes files in a thread, while the process goes on with its work."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

NICE = 10
"""How much lower the priority of the thread is on Linux: beside a busy thread, it gets a tenth of a processor."""


class BackgroundWriter:
    """Writes the files of one step after the other in a thread.

    Only the files of one step are written at a time: `begin` waits for those of the step before. The memory that they
    take is therefore that of one step. The files of a step are written in the order of `submit`; if one of them fails,
    the ones after it are not written. The error is raised by the next call of `check`, `begin` or `wait`. On Linux, the
    thread has a lower priority than the others of the process, so that the training has the processor first.

    As a context, it waits for all files when its block ends. If the block ends by an exception, that one is raised, and
    an error of a file becomes a note of it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kgen-writer", initializer=_lower_priority)
        self._step: int | None = None
        self._pending: list[Future[None]] = []
        self._error: Exception | None = None

    def begin(self, step: int) -> None:
        """Begins the files of a step, after those of the step before are written."""
        if step != self._step:
            self.wait()
        self._step = step

    def submit(self, write: Callable[[], None]) -> None:
        """Calls a function that writes a file of the step that has begun, in the thread."""
        self._pending.append(self._thread.submit(self._run, write))

    def check(self) -> None:
        """Raises the error of a file that could not be written. It waits for no file."""
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Waits until all files are written. Raises the error of the one that could not be written."""
        wait(self._pending)
        self._pending = []
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"A file could not be written: {failure}")
        finally:
            self._thread.shutdown()

    def _run(self, write: Callable[[], None]) -> None:
        if self._error is None:
            try:
                write()
            except Exception as error:
                self._error = error


def _lower_priority() -> None:
    """Lowers the priority of this thread. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
