"""A cache of arrays that are expensive to compute: written atomically, found by a key, and checked before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kgen.errors import RunError
from kgen.storage.files import locked_folder, remove_abandoned, workspace, write_text

Opened = TypeVar("Opened")


def cache_folder() -> Path:
    """The folder of caches: $KGEN_CACHE, or a folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KGEN_CACHE") or Path(base) / "kgen")


def cached_arrays(
    kind: str, described: Mapping[str, Any], rows: int, compute: Callable[[], Iterable[Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """Computes arrays, or finds them in kgen's cache.

    Args:
        kind: What they are, one word: the beginning of the folder's name.
        described: Everything that determines them, as plain data: the cache's key is a hash of it.
        rows: The number of rows of every array.
        compute: Yields the rows in batches, by the name of the array.

    Returns:
        The arrays by name, each with `rows` rows. They stay on disk.

    Raises:
        RunError: the cache cannot be written; the message names KGEN_CACHE.
    """
    return open_or_write(
        cache_folder(),
        f"{kind}-{hash_of(described)}",
        open_=_opened,
        write=lambda folder: write_arrays(folder, rows, compute()),
    )


def hash_of(described: Mapping[str, Any]) -> str:
    """A hash of plain data."""
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()


def _opened(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        return read_arrays(folder)
    except (OSError, EOFError, ValueError, AttributeError):
        return None


def open_or_write(
    cache_dir: Path, name: str, *, open_: Callable[[Path], Opened | None], write: Callable[[Path], None]
) -> Opened:
    """Opens the folder `name` in `cache_dir`. If it is missing or damaged, it is written first.

    Writing is atomic, so that interrupted or simultaneous writing does no harm. A complete folder is never deleted.

    Args:
        cache_dir: The folder of the cache.
        name: "KIND-KEY", where the key depends on everything that determines the contents.
        open_: Opens a folder, or returns None if it cannot be used.
        write: Fills an empty folder.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    folder, kind = cache_dir / name, name.split("-")[0]
    try:
        if (opened := open_(folder)) is not None:
            return opened
        cache_dir.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache_dir)
        with workspace(folder) as temporary:
            whole = temporary / "new"
            whole.mkdir()
            write(whole)
            with locked_folder(cache_dir):
                if (opened := open_(folder)) is not None:  # another process was faster
                    return opened
                shutil.rmtree(folder, ignore_errors=True)
                whole.rename(folder)
                opened = open_(folder)
        if opened is None:
            raise OSError(f"{folder} was written, but cannot be read again")
        return opened
    except OSError as error:
        raise RunError(f"{kind} cannot be kept in {cache_dir}: {error}; set KGEN_CACHE") from error


def write_arrays(folder: Path, count: int, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Writes arrays of `count` rows, batch by batch, as memory-mapped `NAME.npy`, and their checksums."""
    arrays: dict[str, np.memmap[Any, Any]] = {}
    done = 0
    for batch in batches:
        for name, rows in batch.items():
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", mode="w+", dtype=rows.dtype, shape=(count, *rows.shape[1:])
                )
            arrays[name][done : done + len(rows)] = rows
        done += len(next(iter(batch.values())))
    for array in arrays.values():
        array.flush()
    checksums = {name: _checksum(folder / f"{name}.npy") for name in arrays}
    write_text(folder / "checksums.json", json.dumps(checksums))


def read_arrays(folder: Path, check: bool = True) -> dict[str, np.ndarray]:
    """Reads the arrays that `write_arrays` wrote. They stay on disk.

    Args:
        folder: The folder.
        check: Whether to compare checksums.

    Raises:
        OSError, EOFError, ValueError: the folder is missing or damaged.
    """
    checksums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    if check and any(_checksum(folder / f"{name}.npy") != found for name, found in checksums.items()):
        raise ValueError(f"{folder}: an array is damaged")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in checksums}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
