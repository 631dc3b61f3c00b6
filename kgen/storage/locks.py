"""Locks on files between processes, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock

WINDOWS = os.name == "nt"
"""Whether open files can neither be moved nor deleted, and folders not be opened."""


def take_lock(path: Path) -> BaseFileLock:
    """Locks a file at once, which is made where there is none; its folder must exist.

    Where the file is moved or deleted meanwhile, the lock would guard nothing: the one that is there then is taken.

    Raises:
        filelock.Timeout: another process, or another part of this one, holds the lock.
        OSError: the file cannot be written, or the disk has no locks. FileNotFoundError: the folder is not there.
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


def release_to_move(lock: BaseFileLock) -> None:
    """Releases a lock whose folder is about to be moved or deleted, where the system allows that only then.

    It refuses that, too, while another process holds the lock; elsewhere the lock goes with its folder.
    """
    if WINDOWS:
        lock.release()
