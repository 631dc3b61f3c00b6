"""Stores rows of arrays on disk, in any order. Each row has a checksum, which also says that the row was written."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from kgen.errors import DataError
from kgen.storage.files import locked_folder, write_text

INDEX, ROWS, MARKS = "index.json", "rows.bin", "marks.bin"
"""The files of a folder: the number of rows and the types of the arrays; the rows; and 64 bits for each row."""

WRITTEN = 2**32
"""The bit of a mark that says that the row was written. The lower 32 bits are the row's CRC-32."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

Rows = Sequence[int] | np.ndarray
Arrays = Mapping[str, np.ndarray]
Compute = Callable[[list[int]], Arrays]
"""Function that computes different rows of all arrays."""


def create_rows(folder: Path, count: int, arrays: Mapping[str, tuple[Any, Sequence[int]]]) -> None:
    """Prepares an empty folder for `count` rows. They take space on the disk when they are written.

    Args:
        arrays: The type, and the shape of a row, of each array.
    """
    described = {
        name: [np.dtype(BFLOAT16 if dtype == BFLOAT16.name else dtype).name, list(shape)]
        for name, (dtype, shape) in arrays.items()
    }
    for name, size in ((ROWS, count * _record(described).itemsize), (MARKS, count * 8)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    write_text(folder / INDEX, json.dumps({"count": count, "arrays": described}))


class StoredRows:
    """Rows of several arrays. A row is computed when it is first read, and read back from the disk.

    Several threads and processes can use a folder. Of several that compute the same row, the first one writes it, and
    all read what was written. A row is written before its mark, by calls and not through mapped memory, so that a full
    disk is an error. After a power failure, a row may be missing or wrong, which its checksum shows. Such a row is
    computed again.

    Args:
        folder: A folder that `create_rows` prepared.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.count, self.record = int(index["count"]), _record(index["arrays"])
        for name, size in ((ROWS, self.record.itemsize), (MARKS, 8)):
            if (folder / name).stat().st_size != self.count * size:
                raise ValueError(f"{folder / name} has another size than its rows")
        self._checked = np.zeros(self.count, bool)  # the rows whose checksum was compared
        self._computed: set[int] = set()  # the rows that a thread of this process is computing
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self.count

    def marks(self) -> np.ndarray:
        """The mark of each row, uint64 (N,); 0: the row was not written."""
        return np.fromfile(self.folder / MARKS, "<u8")

    def missing(self, size: int) -> Iterator[list[int]]:
        """The rows that were not written, at most `size` at a time, in random order.

        Rows that another process writes in the meantime are left out. Several processes can therefore divide the rows:
        two of them seldom choose the same ones at the same time.
        """
        rows = np.flatnonzero(self.marks() == 0)
        blocks = [rows[first : first + size] for first in range(0, len(rows), size)]
        for number in np.random.default_rng().permutation(len(blocks)).tolist():
            first, last = blocks[number][[0, -1]].tolist()
            marks = np.fromfile(self.folder / MARKS, "<u8", last + 1 - first, offset=8 * first)
            if left := [row for row in blocks[number].tolist() if not marks[row - first]]:
                yield left

    def ends(self) -> list[int]:
        """The first and the last row that were written, if they are not damaged; [] if there is none."""
        written = np.flatnonzero(self.marks())
        ends = written[[0, -1]] if len(written) else written
        absent = self._load(ends, np.empty(len(ends), self.record), range(len(ends)))
        return [row for place, row in enumerate(ends.tolist()) if place not in absent]

    def read(self, rows: Rows, compute: Compute | None = None) -> dict[str, np.ndarray]:
        """Reads rows, (B, ...) of each array. Floats are float32.

        Args:
            rows: The numbers of B rows.
            compute: Computes rows that were not written, or that are damaged.

        Raises:
            DataError: `compute` is None, and a row is missing or damaged, so that the next start has to compute it; or
                the files cannot be read or written.
        """
        wanted = self._numbers(rows)
        records = np.empty(len(wanted), self.record)
        absent = self._load(wanted, records, range(len(wanted)))
        if absent and compute is None:
            raise DataError(self._damaged(wanted[absent]))
        if absent and compute is not None:
            with self._only_here(set(wanted[absent].tolist())):
                absent = self._load(wanted, records, absent)  # another thread or process may have been faster
                if absent:
                    missing = sorted(set(wanted[absent].tolist()))
                    self._write(missing, compute(missing))
                    if self._load(wanted, records, absent):
                        raise DataError(f"{self.folder / ROWS} was written, but cannot be read again")
        return {name: _readable(records[name]) for name in self.record.names or ()}

    def _numbers(self, rows: Rows) -> np.ndarray:
        """Row numbers from 0 on. Raises IndexError if there is no such row."""
        wanted = np.asarray(rows, np.int64).reshape(-1)
        wanted = np.where(wanted < 0, wanted + self.count, wanted)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"{self.folder} has {self.count} rows, and no row {wanted.min()} or {wanted.max()}")
        return wanted

    def _load(self, rows: np.ndarray, records: np.ndarray, places: Sequence[int]) -> list[int]:
        """Reads rows[place] into records[place] for some places, and returns the places of those that are unusable."""
        absent: list[int] = []
        if not len(places):
            return absent
        size = self.record.itemsize
        stored = records.view(np.uint8).data
        try:
            with self._open(ROWS) as data, self._open(MARKS) as marks:
                for place in places:
                    row, record = int(rows[place]), stored[place * size : (place + 1) * size]
                    data.seek(row * size)
                    whole = data.readinto(record) == size  # type: ignore[attr-defined]  # it is a raw file
                    if not self._checked[row]:
                        marks.seek(row * 8)
                        whole = whole and int.from_bytes(marks.read(8), "little") == WRITTEN + zlib.crc32(record)
                        self._checked[row] = whole
                    if not whole:
                        absent.append(place)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be read: {error}: give the same command again") from error
        return absent

    def _write(self, rows: Sequence[int], arrays: Arrays) -> None:
        """Writes different rows, except those that another process has written in the meantime."""
        records = np.empty(len(rows), self.record)
        for name in self.record.names or ():
            if arrays[name].shape != records[name].shape:
                raise ValueError(f"'{name}' has the shape {arrays[name].shape}, not {records[name].shape}")
            records[name] = arrays[name]
        try:
            with locked_folder(self.folder), self._open(ROWS, "r+b") as data, self._open(MARKS, "r+b") as marks:
                places = self._load(np.asarray(rows), np.empty_like(records), range(len(rows)))
                contents = {rows[place]: records[place].tobytes() for place in places}
                for row, content in contents.items():
                    _write_at(data, row * len(content), content)
                for row, content in contents.items():
                    _write_at(marks, row * 8, (WRITTEN + zlib.crc32(content)).to_bytes(8, "little"))
        except OSError as error:
            raise DataError(
                f"{self.folder / ROWS} cannot be written: {error.strerror or error}: free some space on this disk, or "
                "set KGEN_CACHE to a folder on another one"
            ) from error

    @contextmanager
    def _only_here(self, rows: set[int]) -> Iterator[None]:
        """Waits until no other thread is computing any of these rows, and keeps the others from it in the block."""
        with self._changed:
            self._changed.wait_for(lambda: not rows & self._computed)
            self._computed |= rows
        try:
            yield
        finally:
            with self._changed:
                self._computed -= rows
                self._changed.notify_all()

    def _damaged(self, rows: np.ndarray) -> str:
        """Removes the marks of rows, so that the next start computes them, and returns a message."""
        where = f"{self.folder / ROWS} is damaged (row {rows[0]})"
        try:
            with locked_folder(self.folder), self._open(MARKS, "r+b") as marks:
                for row in rows.tolist():
                    _write_at(marks, row * 8, bytes(8))
        except OSError:
            return f"{where}: delete {self.folder}, so that it is computed again"
        return f"{where}: the next start computes it again"

    def _open(self, name: str, mode: str = "rb") -> IO[bytes]:
        return (self.folder / name).open(mode, buffering=0)


def _record(described: Mapping[str, Any]) -> np.dtype[Any]:
    """The type of a row of all arrays together, as it is stored: without gaps, the least significant byte first."""
    types = {name: BFLOAT16 if dtype == BFLOAT16.name else np.dtype(dtype) for name, (dtype, _) in described.items()}
    return np.dtype([(name, types[name].newbyteorder("<"), tuple(shape)) for name, (_, shape) in described.items()])


def _readable(array: np.ndarray) -> np.ndarray:
    """A copy in which floats are float32."""
    floats = array.dtype == BFLOAT16 or np.issubdtype(array.dtype, np.floating)
    return array.astype(np.float32 if floats else array.dtype)


def _write_at(file: IO[bytes], place: int, content: bytes) -> None:
    file.seek(place)
    while content:
        content = content[file.write(content) :]
