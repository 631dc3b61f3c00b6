"""The base of tables in files. One column of such a table holds encoded images."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kgen.data.encoded import Stamp
from kgen.errors import DataError


def pyarrow(owner: str) -> Any:
    """Imports pyarrow; raises DataError if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f"{owner}: pyarrow is not installed ({error}): pip install 'kgen-core[parquet]'") from error
    return pyarrow


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class StoredTable(ABC):
    """A table in a file. No file stays open, so that a table can be pickled, and many threads can read it.

    Args:
        path: The file.
        name: Its name in messages and in the names of images.
        owner: The name of the dataset, for messages.

    Attributes:
        rows: The number of rows.
        schema: The columns, as a `pyarrow.Schema`; None after `close` was called.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """

    rows: int
    schema: Any

    def __init__(self, path: Path, name: str, owner: str) -> None:
        self.path = path
        self.name = name
        self.owner = owner
        try:
            self.stamp = Stamp.of(path.stat())
        except OSError as error:
            raise DataError(f"{owner}: {path} cannot be read: {error.strerror or error}") from error

    @abstractmethod
    def read(self, columns: Sequence[str]) -> Any:
        """Reads columns of captions and labels as a `pyarrow.Table`."""

    @abstractmethod
    def use(self, image: str) -> None:
        """Prepares the access to the images of a column, without reading them."""

    @abstractmethod
    def image(self, row: int) -> bytes | None:
        """The encoded image of a row; None if it is null. Raises OSError if the file cannot be read."""

    @abstractmethod
    def image_path(self, row: int) -> str | None:
        """The path that a row names instead of an encoded image; None if there is none."""

    def close(self) -> None:
        """Frees the memory of what only the start needs."""
        self.schema = None

    def notes(self) -> Sequence[str]:
        """What the user should know about the file. Default: nothing."""
        return ()

    @contextmanager
    def _opened(self) -> Iterator[Callable[[int, int], bytes]]:
        """Opens the file, and yields a function that reads from it, given the position and the number of bytes.

        The file is opened for each image, which takes some microseconds. It is not mapped into memory, because the
        system kills a process that reads a mapped file after it was truncated.

        Raises:
            OSError: the file cannot be read.
            DataError: the file has changed since it was first opened.
            ValueError: the file has no such bytes; the function raises this.
        """
        with self.path.open("rb", buffering=0) as file:
            now = Stamp.of(os.fstat(file.fileno()))
            if (now.size, now.time) != (self.stamp.size, self.stamp.time):
                raise self._changed()

            def read(position: int, size: int) -> bytes:
                file.seek(position)
                data = file.read(size) or b""
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
                if len(data) < size:
                    raise ValueError(f"there are no {size} bytes at {position}")
                return data

            yield read

    def _changed(self) -> DataError:
        return DataError(f"{self.owner}: {self.path} was changed: files must stay as they are while a model is trained")
