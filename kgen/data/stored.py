"""Stores the rows of arrays on disk in several files. Each file is checked when it is used for the first time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kgen.errors import DataError
from kgen.storage.files import write_text

FILE_BYTES = 2**26
"""Largest size of a file, unless a single row is larger. Its checksum takes a tenth of a second."""

INDEX = "index.json"
DAMAGED = "damaged"
"""A file that marks a folder in which a damaged file was found."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

Rows = Sequence[int] | np.ndarray


def write_rows(folder: Path, count: int, batches: Iterable[Mapping[str, np.ndarray]], dtype: Any = None) -> None:
    """Writes arrays of `count` rows, batch by batch.

    Args:
        folder: An empty folder.
        count: The number of rows of every array.
        batches: The rows of all arrays by name, batch after batch. There is at least one batch.
        dtype: The type in which floats are stored: "float16" or "bfloat16"; None: their own type.

    Raises:
        OverflowError: a float is too large for `dtype`.
    """
    writers: dict[str, _Writer] = {}
    for batch in batches:
        for name, rows in batch.items():
            stored = _as_type(rows, dtype)
            writers.setdefault(name, _Writer(folder, name, count, stored)).add(stored)
    index = {name: writer.close() for name, writer in writers.items()}
    write_text(folder / INDEX, json.dumps({"count": count, "arrays": index}))


def read_rows(folder: Path) -> dict[str, StoredRows]:
    """Opens the arrays that `write_rows` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder is missing, incomplete, or marked as damaged.
    """
    if (folder / DAMAGED).exists():
        raise ValueError(f"{folder} is damaged")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return {name: StoredRows(folder, name, index["count"], described) for name, described in index["arrays"].items()}


class StoredRows:
    """One array, whose rows are read when they are accessed. It can be pickled, and several threads can read it.

    Args:
        folder: The folder.
        name: The name of the array.
        count: The number of rows.
        described: The entry of the array in the index: the type, the shape of a row, the rows per file, the checksums.
    """

    def __init__(self, folder: Path, name: str, count: int, described: Mapping[str, Any]) -> None:
        self.folder, self.name, self.count = folder, name, count
        self.dtype = BFLOAT16 if described["dtype"] == BFLOAT16.name else np.dtype(described["dtype"])
        self.shape = tuple(described["shape"])
        self.per_file = int(described["rows"])
        self.checksums: list[str] = described["checksums"]
        self._open: dict[int, np.ndarray] = {}
        for number in range(len(self.checksums)):
            if not _path(folder, name, number).is_file():
                raise ValueError(f"{_path(folder, name, number)} is missing")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Returns copies of rows, (B, ...). Floats are float32.

        Raises:
            DataError: a file is damaged. The folder is then marked, so that the next start writes it again.
        """
        wanted = np.arange(self.count)[np.asarray(rows, np.int64)]
        files = wanted // self.per_file
        out = np.empty((len(wanted), *self.shape), np.float32 if _is_float(self.dtype) else self.dtype)
        for number in np.unique(files).tolist():
            own = files == number
            out[own] = self._file(number)[wanted[own] - number * self.per_file]
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def _file(self, number: int) -> np.ndarray:
        """The rows of one file. Its checksum is compared when it is used for the first time."""
        if number not in self._open:
            path = _path(self.folder, self.name, number)
            try:
                if _checksum(path) != self.checksums[number]:
                    raise ValueError("its checksum differs")
                rows = np.load(path, mmap_mode="r")
            except (OSError, EOFError, ValueError) as error:
                raise DataError(self._damaged(path, error)) from error
            self._open[number] = rows.view(self.dtype) if self.dtype == BFLOAT16 else rows
        return self._open[number]

    def _damaged(self, path: Path, error: Exception) -> str:
        try:
            (self.folder / DAMAGED).touch()
        except OSError:
            return f"{path} is damaged ({error}): delete {self.folder}, so that it is computed again"
        return f"{path} is damaged ({error}): the next start computes the content of {self.folder} again"


class _Writer:
    """Writes one array, in files of at most `FILE_BYTES`.

    Args:
        folder: The folder.
        name: The name of the array.
        count: Number of all rows.
        first: Some rows, which show the shape of a row and the type.
    """

    def __init__(self, folder: Path, name: str, count: int, first: np.ndarray) -> None:
        self.folder, self.name, self.count = folder, name, count
        self.dtype, self.shape = first.dtype, first.shape[1:]
        self.per_file = max(1, FILE_BYTES // max(1, first[:1].nbytes))
        self.done = 0
        self.file: Any = None

    def add(self, rows: np.ndarray) -> None:
        while len(rows):
            number, place = divmod(self.done, self.per_file)
            if self.file is None:
                size = min(self.per_file, self.count - self.done)
                stored = np.dtype(np.uint16) if self.dtype == BFLOAT16 else self.dtype  # .npy files have no bfloat16
                self.file = np.lib.format.open_memmap(
                    _path(self.folder, self.name, number), mode="w+", dtype=stored, shape=(size, *self.shape)
                )
            part = rows[: len(self.file) - place]
            self.file[place : place + len(part)] = part.view(self.file.dtype)
            self.done, rows = self.done + len(part), rows[len(part) :]
            if place + len(part) == len(self.file):
                self.file.flush()
                self.file = None

    def close(self) -> dict[str, Any]:
        """The description of the array; raises ValueError if rows are missing."""
        if self.done != self.count:
            raise ValueError(f"'{self.name}' has {self.done} rows, but {self.count} are to be written")
        files = range(-(-self.count // self.per_file))
        checksums = [_checksum(_path(self.folder, self.name, number)) for number in files]
        return {"dtype": self.dtype.name, "shape": self.shape, "rows": self.per_file, "checksums": checksums}


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05}.npy"


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype == BFLOAT16 or np.issubdtype(dtype, np.floating)


def _as_type(rows: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is None or not _is_float(rows.dtype):
        return rows
    with np.errstate(over="ignore"):
        stored = rows.astype(BFLOAT16 if dtype == BFLOAT16.name else dtype)
    if not np.array_equal(np.isfinite(stored.astype(np.float32)), np.isfinite(rows)):
        raise OverflowError(f"a number is too large for {dtype}")
    return stored


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
