"""The signals that end a run: Ctrl-C (SIGINT), and SIGTERM, which announces a preemption.

In the steps of a training, they end it with a checkpoint (`StopSignals`). At any other moment, such as the filling of a
cache, they end the run at once, and what is finished is kept (`terminable`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kgen.errors import RunInterruptedError


class StopSignals:
    """Receives Ctrl-C and SIGTERM. A second signal raises KeyboardInterrupt at once.

    Args:
        shared: Whether any worker has received one, given whether this one has; all workers call it together. None:
            there is only one.
    """

    def __init__(self, shared: Callable[[bool], bool] | None = None) -> None:
        self._received = threading.Event()
        self._shared = shared
        self._agreed = False
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a signal was received, so that the training must end. With several workers, `share` decides this."""
        return self._received.is_set() if self._shared is None else self._agreed

    def share(self) -> None:
        """Asks all workers, so that they end at the same step. All must call it after the same steps."""
        if self._shared is not None:
            self._agreed = self._shared(self._received.is_set())

    def listen(self) -> None:
        """Begins to receive signals. Outside of the main thread, where Python does not allow it, it does nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}

    def ignore(self) -> None:
        """Ends receiving signals: they have the same effect again as before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received.is_set():
            raise KeyboardInterrupt
        self._received.set()


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received. Like Ctrl-C, it is no `Exception`, so that no component can swallow it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM end the block at once. Outside of the main thread, where Python does not allow it, it does nothing.

    Raises:
        RunInterruptedError: SIGTERM was received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        raise RunInterruptedError(
            "stopped by SIGTERM; what is finished is kept. Give the same command again to continue"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
