"""Calls a function for every example of a dataset in several threads, which Ctrl-C stops at once."""

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
"""Number of items that a thread takes at once, by default."""

QUICK = 5e-5
"""Seconds per item below which several threads are slower than one."""

GRACE = 0.02
"""Seconds for which the first items may take longer."""

PROGRESS_EVERY = 10.0
"""Seconds between two progress messages of a long scan."""


def scan(
    items: Sequence[Item], look: Callable[[Item], Found], what: str, *, chunk: int = CHUNK, unit: str = "images"
) -> list[Found]:
    """Returns the result of `look` for each item, in order.

    The calling thread does the work alone as long as each call is quick, such as asking for the size of a file. Several
    threads would then only hinder each other. Later, threads take chunks of items from one iterator, without a queue.
    Only the main thread receives an interrupt. In a pool's `submit`, an interrupt could leave a lock locked or a queue
    full; here it cannot.

    Args:
        items: The items.
        look: A thread-safe function of an item. Its exceptions are raised here.
        what: The name of the items in progress messages on stderr, such as "imagefolder my-images".
        chunk: Number of items that a thread takes at once.
        unit: What the items are, in progress messages.
    """
    found: list[Found | None] = [None] * len(items)
    first, began = 0, time.perf_counter()
    while first < len(items) and time.perf_counter() - began < GRACE + QUICK * first:
        found[first : first + chunk] = map(look, items[first : first + chunk])
        first += chunk
    starts = iter(range(first, len(items), chunk))  # its next() is atomic
    failures: list[BaseException] = []
    done: list[int] = []
    ended = False

    def work() -> None:
        try:
            for start in starts:
                for index in range(start, min(start + chunk, len(items))):
                    if ended or failures:
                        return
                    found[index] = look(items[index])
                done.append(start)
        except BaseException as error:  # raised again in the calling thread
            failures.append(error)

    if first >= len(items):
        return found  # type: ignore[return-value]  # no item is None
    threads = [threading.Thread(target=work, daemon=True) for _ in range(_thread_count())]
    try:
        for thread in threads:
            thread.start()
        _wait(threads, lambda: min(first + len(done) * chunk, len(items)), len(items), (what, unit))
    finally:
        ended = True  # each thread stops after its current item
    if failures:
        raise failures[0]
    return found  # type: ignore[return-value]  # no item is None


def _wait(threads: Sequence[threading.Thread], count: Callable[[], int], total: int, names: tuple[str, str]) -> None:
    """Waits until all threads have ended, and prints the progress of a long scan."""
    what, unit = names
    began = printed = time.monotonic()
    pause = 0.001
    while any(thread.is_alive() for thread in threads):
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
        if (now := time.monotonic()) - printed >= PROGRESS_EVERY and count():
            printed = now
            left = (now - began) / count() * (total - count())
            print(f"{what}: checked {count():,} of {total:,} {unit}, {left:.0f} s to go", file=sys.stderr, flush=True)


def _thread_count() -> int:
    """The default number of threads in Python's thread pools."""
    return min(32, (os.cpu_count() or 1) + 4)
