"""Locks on files between processes. A lock ends with the process that holds it, even if that is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from kgen.errors import RunError

WINDOWS = os.name == "nt"
"""Whether the system is Windows, where open files cannot be moved or deleted, and folders cannot be opened."""


def take_lock(path: Path) -> BaseFileLock:
    """Locks a file without waiting. The file is created if it is missing; its folder must exist.

    If the file is moved or deleted in the meantime, the lock would protect nothing, so that this function tries again.

    Raises:
        filelock.Timeout: another process, or another part of this one, holds the lock.
        FileNotFoundError: the folder does not exist.
        OSError: the file cannot be written, or the disk has no locks.
    """
    while True:
        path.touch()
        before = path.stat()
        lock = FileLock(path)
        lock.acquire(timeout=0)
        with suppress(FileNotFoundError):
            if os.path.samestat(before, path.stat()):
                return lock
        lock.release()


@contextmanager
def output_lock(path: Path, option: str) -> Iterator[None]:
    """Keeps other processes from the same block for this output file. Nothing is left beside the file.

    Args:
        path: The file, in a folder that exists.
        option: The option that names it, for the message.

    Raises:
        RunError: another process is working on the file.
    """
    place = path.with_name(f".{path.name}.lock")
    try:
        lock = take_lock(place)
    except Timeout as error:
        raise RunError(f"another process is working on {path}: wait for it, or give another {option}") from error
    except OSError:  # the disk has no locks
        yield
        return
    try:
        yield
    finally:
        release_to_move(lock)
        with suppress(OSError):
            place.unlink()
        lock.release()


def release_to_move(lock: BaseFileLock) -> None:
    """On Windows, releases a lock whose folder is about to be moved or deleted, which fails while a file is open.

    Moving or deleting then still fails if another process holds the lock. On other systems, the lock moves along with
    its folder.
    """
    if WINDOWS:
        lock.release()
