"""Looks at every example of a dataset in several threads; Ctrl-C ends this at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

CHUNK = 64
"""Items that a thread takes at once; as many are looked at without threads, which would cost more."""

SAY_AFTER = 10.0
"""Seconds between the lines in which a long scan says how far it is."""


def scan(items: Sequence[Item], look: Callable[[Item], Found], what: str) -> list[Found]:
    """What `look` says of each item, in their order.

    Threads take chunks from one iterator, and nothing is queued. So an interrupt, which reaches the main thread alone,
    finds no queue to empty and no lock that it could leave locked, as it would inside a pool's `submit`.

    Args:
        look: Must be thread-safe; what it raises is raised here.
        what: What is looked at, for the line on standard error that a long scan writes: "imagefolder my-images".
    """
    if len(items) <= CHUNK:
        return [look(item) for item in items]
    found: list[Found | None] = [None] * len(items)
    starts = iter(range(0, len(items), CHUNK))  # its next() is atomic
    failures: list[BaseException] = []
    done: list[int] = []
    ended = False

    def work() -> None:
        try:
            for start in starts:
                for index in range(start, min(start + CHUNK, len(items))):
                    if ended or failures:
                        return
                    found[index] = look(items[index])
                done.append(start)
        except BaseException as error:  # raised where the scan was called
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_workers())]
    try:
        for thread in threads:
            thread.start()
        _wait(threads, lambda: min(len(done) * CHUNK, len(items)), len(items), what)
    finally:
        ended = True  # each thread stops after its current item
    if failures:
        raise failures[0]
    return found  # type: ignore[return-value]  # all of them were looked at


def _wait(threads: Sequence[threading.Thread], count: Callable[[], int], total: int, what: str) -> None:
    """Waits until all threads have ended, and says how far a long scan is."""
    began = said = time.monotonic()
    pause = 0.001
    while any(thread.is_alive() for thread in threads):
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
        if (now := time.monotonic()) - said >= SAY_AFTER and count():
            said = now
            left = (now - began) / count() * (total - count())
            print(f"{what}: checked {count():,} of {total:,} images, {left:.0f} s to go", file=sys.stderr, flush=True)


def _workers() -> int:
    """As many threads as Python's own pools would have."""
    return min(32, (os.cpu_count() or 1) + 4)
