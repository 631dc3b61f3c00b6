"""The signals that end a training with a checkpoint: Ctrl-C (SIGINT), and SIGTERM, which announces a preemption."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Receives Ctrl-C and SIGTERM. A second signal raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self._received = threading.Event()
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a signal was received, so that the training must end."""
        return self._received.is_set()

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
        if self.received:
            raise KeyboardInterrupt
        self._received.set()
