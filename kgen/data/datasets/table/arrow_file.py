"""A file of Arrow record batches, as the package `datasets` writes it, with random access to each image."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kgen.data.datasets.table.stored import StoredTable, first_line, pyarrow
from kgen.data.images import ImageError
from kgen.errors import DataError

END = b"\0\0\0\0"
"""The last bytes of a stream that is complete."""


class Batch(NamedTuple):
    """The positions of the values of a column, bytes or texts, in a record batch.

    Args:
        offsets: The position of the first offset in the file. Value i begins at offset i in the data.
        width: The size of an offset, in bytes.
        data: The position of the data in the file.
        nulls: The rows without a value.
    """

    offsets: int
    width: int
    data: int
    nulls: frozenset[int]


class ArrowFile(StoredTable):
    """A file in Arrow's streaming format, without compression.

    Raises:
        DataError: the file is empty, truncated, compressed, or not in this format.
    """

    def __init__(self, path: Path, name: str, owner: str) -> None:
        super().__init__(path, name, owner)
        if not self.stamp.size:
            raise DataError(f"{owner}: {path} is empty")
        self._firsts: list[int] = []
        self._images: list[Batch] = []
        self._paths: list[Batch] = []
        self.rows = 0
        with self._stream() as (reader, _):
            self.schema = reader.schema

    def read(self, columns: Sequence[str]) -> Any:
        with self._stream() as (reader, _):
            return reader.read_all().select(list(columns)).combine_chunks()

    def use(self, image: str) -> None:
        with self._stream() as (reader, start):
            for batch in reader:
                column = batch.column(image)
                valid = column.is_valid()
                names = [field.name for field in column.type] if hasattr(column, "field") else []
                self._firsts.append(self.rows)
                self._images.append(self._find(column.field("bytes") if names else column, valid, start))
                if "path" in names:
                    self._paths.append(self._find(column.field("path"), valid, start))
                self.rows += batch.num_rows

    def image(self, row: int) -> bytes | None:
        return self._value(self._images, row)

    def image_path(self, row: int) -> str | None:
        path = self._value(self._paths, row) if self._paths else None
        return path.decode("utf-8", "replace") if path else None

    def _value(self, batches: Sequence[Batch], row: int) -> bytes | None:
        number = bisect.bisect_right(self._firsts, row) - 1
        batch, inside = batches[number], row - self._firsts[number]
        with self._opened() as read:
            if inside in batch.nulls:
                return None
            try:
                both = read(batch.offsets + inside * batch.width, 2 * batch.width)
                begin, end = np.frombuffer(both, f"<i{batch.width}").tolist()
                return read(batch.data + begin, end - begin)
            except ValueError as error:
                raise ImageError(f"the file is damaged: {error}") from error

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, int]]:
        """A reader of the file, which is mapped into memory, and the address of the file in memory."""
        arrow = pyarrow(self.owner)
        try:
            with arrow.memory_map(str(self.path)) as file:
                content = file.read_buffer()
                if content[-4:].to_pybytes() != END:
                    raise DataError(f"{self.owner}: {self.path} is truncated: copy or write it again")
                yield arrow.ipc.open_stream(content), content.address
        except (arrow.ArrowException, OSError) as error:
            raise DataError(
                f"{self.owner}: {self.path} is damaged, or not a file of the package datasets: {first_line(error)}"
            ) from error

    def _find(self, column: Any, valid: Any, start: int) -> Batch:
        """The positions of the values of a column.

        Args:
            column: A `pyarrow` array in the mapped file.
            valid: Whether each row has a value, besides what `column` says.
            start: The address of the file in memory.
        """
        valid = valid.to_numpy(zero_copy_only=False) & column.is_valid().to_numpy(zero_copy_only=False)
        nulls = frozenset(np.flatnonzero(~valid).tolist())
        if len(nulls) == len(valid):
            return Batch(0, 0, 0, nulls)
        width = 8 if str(column.type).startswith("large") else 4
        _, offsets, data = column.buffers()
        places = [buffer.address - start for buffer in (offsets, data)]
        if not all(0 <= place <= self.stamp.size for place in places):
            raise DataError(
                f"{self.owner}: {self.path} is compressed: save it with the method save_to_disk of datasets, or as "
                "Parquet files, for the dataset parquet"
            )
        return Batch(places[0], width, places[1], nulls)
