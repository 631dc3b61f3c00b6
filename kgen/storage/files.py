"""Writing that never leaves half a file behind, and never replaces what is not kgen's own."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kgen.errors import FULL, ConfigError, RunError
from kgen.storage import locks
from kgen.storage.locks import release_to_move, take_lock

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.kgen")
"""The names of the folders in which kgen writes before it moves what it wrote to its place."""

LOCK = "lock"
"""A file in such a folder, locked as long as the process that made the folder uses it."""


@contextmanager
def atomic_file(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a temporary path, which takes the place of `path` when the block ends well, and vanishes otherwise.

    A symbolic link stays: the file that it points to is replaced. A device or a pipe stays too: the bytes are written
    into it. A file that is replaced keeps its mode; a new one has the mode that the umask gives.

    Args:
        size: Bytes that are needed, for the message where the disk is full.

    Raises:
        ConfigError: `path` is a folder. RunError: the disk is full.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file")
    with disk_space(path, size):
        if path.exists() and not path.is_file():
            with tempfile.TemporaryDirectory() as folder:
                yield (temporary := Path(folder) / "new")
                with path.open("wb") as device:
                    device.write(temporary.read_bytes())
            return
        target = _followed(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with workspace(target) as folder:
            temporary = folder / f"new{target.suffix}"
            temporary.touch()
            mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
            yield temporary
            _sync(temporary)
            temporary.chmod(mode)
            temporary.replace(target)
            _sync(target.parent)


@contextmanager
def atomic_folder(path: Path, owned: Callable[[Path], Container[str]] = lambda path: ()) -> Iterator[Path]:
    """As `atomic_file`, for a folder. One that is there already is replaced whole, if it holds nothing but owned files.

    Args:
        owned: Given the folder that is there already, the files that may be deleted ("encoder/words.json").

    Raises:
        ConfigError: `path` is no folder, is the current folder, or holds other files. RunError: the disk is full.
    """
    target = _followed(path)
    _require_replaceable(path, target, owned)
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_space(path), workspace(target) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            _sync(file)
        if target.exists():
            new.chmod(stat.S_IMODE(target.stat().st_mode))
            (folder / "old").mkdir()
            target.rename(folder / "old" / target.name)
        try:
            new.rename(target)
        except OSError:
            for old in folder.glob("old/*"):
                old.rename(target)
            raise
        _sync(target.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    content = text.encode("utf-8")
    with atomic_file(path, len(content)) as temporary:
        temporary.write_bytes(content)


@contextmanager
def disk_space(path: Path, size: int = 0) -> Iterator[None]:
    """Turns the error of a full disk into a RunError that says where, and how many bytes were needed (if known)."""
    try:
        yield
    except Exception as error:
        if (number := _error_number(error)) not in FULL:
            raise
        needed = f"{size:,} bytes were needed" if size else "more bytes were needed"
        raise RunError(
            f"the disk is full ({os.strerror(number)}): {needed} at {path}; nothing is lost, and what "
            "was there before is kept"
        ) from error


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which vanishes with the block. It is locked, as a sign that somebody uses it."""
    lock = None
    while lock is None:
        folder = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex[:8]}.kgen")
        folder.mkdir()
        try:
            lock = take_lock(folder / LOCK)
        except (FileNotFoundError, FileExistsError, Timeout):  # another process took it for abandoned, and removes it
            continue
        except OSError:  # there are no locks on this disk: then nobody can take it for abandoned
            lock = FileLock(folder / LOCK)
    try:
        yield folder
    finally:
        release_to_move(lock)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes, and other threads, out of the same block for this folder, where the disk has locks."""
    lock = FileLock(folder / ".lock")
    with suppress(OSError):
        lock.acquire(poll_interval=0.01)
    try:
        yield
    finally:
        lock.release()


def writable_folder(folder: Path) -> None:
    """Makes a folder that is to be written into, tries it, and removes what killed processes left in it.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    remove_abandoned(folder)


def files_in(folder: Path) -> list[str]:
    """The files in a folder and below it, by their paths from there; a symbolic link is a file."""
    found = (Path(parent) / name for parent, folders, names in os.walk(folder) for name in (*names, *folders))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_symlink() or not path.is_dir())


def remove_abandoned(folder: Path, *, deep: bool = False) -> None:
    """Deletes what killed processes left half-written in a folder; a folder that one had moved aside is moved back.

    What another process is still writing stays, and so does everything that is not named as kgen names it.

    Args:
        deep: Look into the folders below, too.
    """
    for path in list(folder.rglob(".*.kgen") if deep else folder.glob(".*.kgen")):
        if not TEMPORARY.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):  # a disk that cannot be written, or has no locks; another process holds the lock
            lock = take_lock(path / LOCK)
            try:
                for old in path.glob("old/*"):
                    if not path.with_name(old.name).exists():
                        old.rename(path.with_name(old.name))
                release_to_move(lock)
                shutil.rmtree(path)
            finally:
                lock.release()


def _require_replaceable(path: Path, target: Path, owned: Callable[[Path], Container[str]]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"{path} is a file, but a folder is to be written: give another name")
    here = Path.cwd()
    if target.resolve() in (here, *here.parents):
        raise ConfigError(f"{path} is the current folder, or holds it: give a folder of its own, such as 'model'")
    if files := files_in(target):
        known = owned(target)
        if foreign := [file for file in files if file not in known]:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise ConfigError(
                f"{path} holds files that kgen did not write there ({', '.join(foreign[:3])}{more}), and kgen deletes "
                "none of them: give another folder, or move them away"
            )


def _followed(path: Path) -> Path:
    """Where a symbolic link points to; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() or not path.name else path


def _error_number(error: Exception) -> int:
    """The errno of an error, also of one that safetensors tells in words."""
    if isinstance(error, OSError):
        return error.errno or 0
    if (found := re.search(r"os error (\d+)", str(error))) is None:
        return 0
    number = int(found[1])  # Windows has numbers of its own, which Python translates
    return OSError(number, "", None, number).errno or 0


def _sync(path: Path) -> None:
    """Waits until the disk holds a file or a folder. Windows does so for files alone, and those that may be written."""
    try:
        descriptor = os.open(path, os.O_RDWR if locks.WINDOWS else os.O_RDONLY)
    except PermissionError:
        if locks.WINDOWS:
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
