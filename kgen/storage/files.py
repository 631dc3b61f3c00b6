"""Writes files completely or not at all, and replaces only kgen's own files."""

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
"""The form of the names of temporary folders, in which kgen writes files before it moves them to their place."""

LOCK = "lock"
"""A file in such a folder, which is locked while the process that made the folder uses it."""


@contextmanager
def atomic_file(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a temporary path. It replaces `path` if the block ends without an error, and is deleted otherwise.

    A symbolic link stays, and the file that it points to is replaced. A device or a pipe stays, and the bytes are
    written into it. A replaced file keeps its mode; the mode of a new file follows from the umask.

    Args:
        path: The file to write.
        size: Number of bytes that are needed, for the message if the disk is full.

    Raises:
        ConfigError: `path` is a folder.
        RunError: the disk is full.
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
    """Writes a folder like `atomic_file`. An existing folder is replaced as a whole, if it holds only owned files.

    Args:
        path: The folder to write.
        owned: A function of the existing folder that returns the files that may be deleted ("encoder/words.json").

    Raises:
        ConfigError: `path` is not a folder, is the current folder, or holds other files.
        RunError: the disk is full.
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
    """Turns the error of a full disk into a RunError with the path and, if it is known, the number of bytes needed."""
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
    """Yields a new folder beside `target`, which is deleted after the block. A lock shows that it is in use."""
    lock = None
    while lock is None:
        folder = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex[:8]}.kgen")
        folder.mkdir()
        try:
            lock = take_lock(folder / LOCK)
        except (FileNotFoundError, FileExistsError, Timeout):  # another process thinks it is abandoned, and deletes it
            continue
        except OSError:  # this disk has no locks, so that no process can think that it is abandoned
            lock = FileLock(folder / LOCK)
    try:
        yield folder
    finally:
        release_to_move(lock)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Excludes other processes and threads from the same block for this folder, if the disk has locks."""
    lock = FileLock(folder / ".lock")
    with suppress(OSError):
        lock.acquire(poll_interval=0.01)
    try:
        yield
    finally:
        lock.release()


def writable_folder(folder: Path) -> None:
    """Creates a folder, checks that it can be written to, and deletes what killed processes left in it.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot be written to ({error.strerror})", str(folder)) from error
    remove_abandoned(folder)


def files_in(folder: Path) -> list[str]:
    """The relative paths of all files in a folder and below it. A symbolic link counts as a file."""
    found = (Path(parent) / name for parent, folders, names in os.walk(folder) for name in (*names, *folders))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_symlink() or not path.is_dir())


def remove_abandoned(folder: Path, *, deep: bool = False) -> None:
    """Deletes unfinished files that killed processes left in a folder, and moves replaced folders back to their place.

    Files that another process is still writing stay, and so do files with other names than those of kgen.

    Args:
        folder: The folder.
        deep: Whether to search the folders below, too.
    """
    for path in list(folder.rglob(".*.kgen") if deep else folder.glob(".*.kgen")):
        if not TEMPORARY.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):  # the disk is read-only or has no locks, or another process holds the lock
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
        raise ConfigError(f"{path} is a file, but kgen has to write a folder: give another name")
    here = Path.cwd()
    if target.resolve() in (here, *here.parents):
        raise ConfigError(f"{path} is or contains the current folder: give a separate folder, such as 'model'")
    if files := files_in(target):
        known = owned(target)
        if foreign := [file for file in files if file not in known]:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise ConfigError(
                f"{path} holds files that kgen did not write there ({', '.join(foreign[:3])}{more}), and kgen deletes "
                "none of them: give another folder, or move them away"
            )


def _followed(path: Path) -> Path:
    """The target of a symbolic link; any other path unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() or not path.name else path


def _error_number(error: Exception) -> int:
    """The errno of an error, also of an error of safetensors, which has it in its message."""
    if isinstance(error, OSError):
        return error.errno or 0
    if (found := re.search(r"os error (\d+)", str(error))) is None:
        return 0
    number = int(found[1])  # Python translates the numbers of Windows
    return OSError(number, "", None, number).errno or 0


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk. On Windows, this works only for writable files."""
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
