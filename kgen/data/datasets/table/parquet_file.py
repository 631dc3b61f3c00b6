"""A Parquet file with a column of images, which allows random access to each image."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kgen.data.datasets.table.pages import Chunk, Pages, UnknownLayoutError
from kgen.data.datasets.table.stored import StoredTable, first_line, pyarrow
from kgen.data.encoded.lru_cache import LRUCache
from kgen.data.images import ImageError
from kgen.errors import DataError

MEMORY = 2**28
"""Largest size of the decompressed pages that a process keeps, in bytes, for all Parquet files together."""

LARGE = 2**23
"""Size of a page in bytes. It takes longer to decompress a larger page than to decode an image."""

UNREADABLE = (UnknownLayoutError, IndexError, KeyError, TypeError, ValueError)
"""What `Pages` raises for a damaged file, or for one in an unknown layout."""

_pages: LRUCache[Any] = LRUCache(MEMORY)


class ParquetFile(StoredTable):
    """A Parquet file. `Pages` reads its images; pyarrow reads whole row groups if `Pages` does not know the layout.

    Raises:
        DataError: the file is empty, truncated, or not a Parquet file.
    """

    def __init__(self, path: Path, name: str, owner: str) -> None:
        super().__init__(path, name, owner)
        parquet = _parquet(owner)
        if not self.stamp.size:
            raise DataError(f"{owner}: {path} is empty")
        try:
            with parquet.ParquetFile(path) as file:
                self._metadata = file.metadata
                self.schema = file.schema_arrow
        except (pyarrow(owner).ArrowException, OSError) as error:
            raise DataError(f"{owner}: {path} is damaged, or not a Parquet file: {first_line(error)}") from error
        self.rows = self._metadata.num_rows
        self._chunks: list[Chunk] = []
        self._known: dict[int, Pages | None] = {}

    def read(self, columns: Sequence[str]) -> Any:
        try:
            with _parquet(self.owner).ParquetFile(self.path) as file:
                return file.read(columns=list(columns))
        except (pyarrow(self.owner).ArrowException, OSError) as error:
            raise DataError(f"{self.owner}: {self.path} is damaged: {first_line(error)}") from error

    def use(self, image: str) -> None:
        self._column = image
        metadata = self._metadata
        leaves = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        leaf = leaves.get(f"{image}.bytes", leaves.get(image))
        self._has_path = f"{image}.path" in leaves
        self._firsts, first = [], 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            self._firsts.append(first)
            self._chunks.append(_chunk(metadata, group, leaf, first))
            first += group.num_rows
        self._advice = self._slow()

    def close(self) -> None:
        super().close()
        self._metadata = None

    def notes(self) -> Sequence[str]:
        return self._advice

    def image(self, row: int) -> bytes | None:
        number, inside = self._place(row)
        with self._opened() as read:
            try:
                pages = self._pages(number, read)
                if pages is not None:
                    return pages.value(read, inside, _pages, (self.path, self.stamp, number))
            except UNREADABLE:
                self._known[number] = None  # pyarrow reads it, or says what is wrong
        value = self._group(number).column(0)[inside].as_py()
        data: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return data

    def image_path(self, row: int) -> str | None:
        if not self._has_path:
            return None
        number, inside = self._place(row)
        table = self._read_group(number, f"{self._column}.path")
        value = table.column(0)[inside].as_py()
        path: str | None = value and value["path"]
        return path

    def _place(self, row: int) -> tuple[int, int]:
        """The number of the row group of a row, and the number of the row in that group."""
        number = bisect.bisect_right(self._firsts, row) - 1
        return number, row - self._firsts[number]

    def _pages(self, number: int, read: Any) -> Pages | None:
        if number not in self._known:
            chunk = self._chunks[number]
            self._known[number] = Pages(read, chunk) if chunk.size else None
        return self._known[number]

    def _group(self, number: int) -> Any:
        """The images of a row group, as pyarrow reads them."""

        def read() -> tuple[Any, int]:
            table = self._read_group(number, self._column)
            return table, table.nbytes

        return _pages.get((self.path, self.stamp, number, "group"), read)

    def _read_group(self, number: int, column: str) -> Any:
        try:
            with _parquet(self.owner).ParquetFile(self.path) as file:
                return file.read_row_group(number, columns=[column])
        except (pyarrow(self.owner).ArrowException, OSError) as error:
            raise ImageError(f"row group {number} is damaged: {first_line(error)}") from error

    def _slow(self) -> list[str]:
        """A note if access to single images is slow, because the largest row group is compressed in large pages."""
        chunk = max(self._chunks, key=lambda chunk: chunk.size, default=None)
        if chunk is None or not chunk.size:
            return []
        try:
            with self._opened() as read:
                size = Pages(read, chunk).largest
        except UNREADABLE:
            size = chunk.size
        if size < LARGE:
            return []
        return [
            f"{self.owner} {self.path}: to read one image, {size / 2**20:,.0f} MiB must be decompressed, because "
            f"{chunk.rows:,} images are compressed together. Training may wait for its data. Write the files without "
            "compression (compression='none' of pyarrow and pandas), or with row_group_size=100, or as webdataset"
        ]


def _chunk(metadata: Any, group: Any, leaf: int | None, first: int) -> Chunk:
    """The column chunk of the images. Its size is 0 if `Pages` cannot read it."""
    rows = group.num_rows
    if leaf is None:
        return Chunk(first, rows, 0, 0, "", 0)
    schema, column = metadata.schema.column(leaf), group.column(leaf)
    if schema.physical_type != "BYTE_ARRAY" or schema.max_repetition_level or column.file_path:
        return Chunk(first, rows, 0, 0, "", 0)
    start = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    return Chunk(first, rows, start, column.total_compressed_size, column.compression, schema.max_definition_level)


@functools.cache
def _parquet(owner: str) -> Any:
    pyarrow(owner)
    from pyarrow import parquet

    return parquet
