"""Remembers which images could be read without an error, so that a later start does not read them again."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kgen.data.cache import cache_folder, hash_of
from kgen.errors import KgenError
from kgen.storage.files import atomic_file

FORMAT = 2

SETTLED = 2.0
"""Age in seconds. After a change of this age, every file system gives the next change a different time."""


class Stamp(NamedTuple):
    """The size and the times of an image's file. If they are the same, the image is taken to be the same.

    Args:
        size: The size of the encoded image, in bytes.
        time: The time of the last change of its file, in nanoseconds.
        entry: The time of the last change of the file's entry in the file system, which copying and `touch` cannot set.
            On Windows, it is the time when the file was created.
    """

    size: int
    time: int
    entry: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def unchecked(place: Path, stamps: Mapping[str, Stamp]) -> list[str]:
    """The images that `write_checked` did not write with these stamps, in order."""
    written = _read(_cache_file(place))
    if not len(written):
        return list(stamps)
    known = np.isin(stamp_hashes(stamps), written)
    return [key for key, seen in zip(stamps, known.tolist(), strict=True) if not seen]


def write_checked(place: Path, stamps: Mapping[str, Stamp]) -> None:
    """Writes to kgen's cache which images could be read, in place of what was written before.

    It leaves out an image whose file changed just now, because a second change at the same moment would not change the
    time of the file. If the cache cannot be written, the next start reads the images again.

    Args:
        place: The folder or file that holds them.
        stamps: The stamps of all images that could be read, by key.
    """
    now = time.time()
    data = io.BytesIO()
    np.save(data, np.sort(stamp_hashes({key: stamp for key, stamp in stamps.items() if settled(stamp, now)})))
    with suppress(OSError, KgenError), atomic_file(_cache_file(place)) as temporary:
        temporary.write_bytes(data.getvalue())


def settled(stamp: Stamp, now: float | None = None) -> bool:
    """Whether a file changed so long ago that another change would change its time.

    Args:
        stamp: The stamp of the file.
        now: The time in seconds, if it is known.
    """
    return stamp.time < ((time.time() if now is None else now) - SETTLED) * 1e9


def stamp_hashes(stamps: Mapping[str, Stamp]) -> np.ndarray:
    """Hashes (N,) of keys and stamps, of 64 bits each: ten million images take 80 MB."""
    hashes: Sequence[bytes] = [
        hashlib.blake2b(f"{key}\0{size} {time} {entry}".encode(), digest_size=8).digest()
        for key, (size, time, entry) in stamps.items()
    ]
    return np.frombuffer(b"".join(hashes), np.uint64)


def _read(path: Path) -> np.ndarray:
    """The hashes in a file; none if the file is missing or damaged, because only the speed of a start depends on it."""
    with suppress(OSError, EOFError, ValueError):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) and found.dtype == np.uint64 and found.ndim == 1:
            return found
    return np.empty(0, np.uint64)


def _cache_file(place: Path) -> Path:
    return cache_folder() / f"checked-{hash_of({'format': FORMAT, 'place': str(place.resolve())})}.npy"
