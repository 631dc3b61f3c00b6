"""Random access to single values of a column of bytes in a Parquet file.

pyarrow reads whole row groups: to get one image of a thousand, it reads a thousand. Within a row group, a column is a
sequence of pages. This module reads the headers of the pages, and then only the bytes of one value; if the pages are
compressed, it reads one page. https://parquet.apache.org/docs/file-format/ describes the format.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kgen.data.datasets.table.thrift import read_struct
from kgen.data.encoded.lru_cache import LRUCache
from kgen.data.encoded.varint import read_varint

ReadAt = Callable[[int, int], bytes]
"""Function that reads from a file, given the position and the number of bytes."""

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Types of pages in parquet.thrift."""

PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
"""Encodings in parquet.thrift."""

CODECS = {"BROTLI": "brotli", "GZIP": "gzip", "LZ4": "lz4_raw", "SNAPPY": "snappy", "ZSTD": "zstd"}
"""For each name of a codec in the metadata, its name in `pyarrow.decompress`."""

HEADER = 512
"""Number of bytes that are read at first for the header of a page."""


class UnknownLayoutError(ValueError):
    """A column chunk is stored in a way that this module does not read."""


class Chunk(NamedTuple):
    """A column of a row group.

    Args:
        first: The number of its first row, in the file.
        rows: The number of rows.
        start: The position of its first page.
        size: The size of all pages, in bytes.
        codec: The compression, as Parquet names it.
        levels: The largest definition level. A value with a lower level is null.
    """

    first: int
    rows: int
    start: int
    size: int
    codec: str
    levels: int


class Page(NamedTuple):
    """A page of a chunk.

    Args:
        first: The number of its first row, in the chunk.
        values: The number of values.
        start: The position of its body in the file.
        size: The size of the body in the file, in bytes.
        full: The size of the decompressed body, in bytes.
        codec: The compression, as Parquet names it.
        encoding: The encoding of the values.
        levels: The position and the size of the definition levels in the file, if they are before the body; None: the
            body begins with them.
    """

    first: int
    values: int
    start: int
    size: int
    full: int
    codec: str
    encoding: int
    levels: tuple[int, int] | None


class Pages:
    """The pages of a chunk, whose headers are read from the file.

    Raises:
        UnknownLayoutError: this module cannot read the encoding or the compression of the pages.
    """

    def __init__(self, read: ReadAt, chunk: Chunk) -> None:
        if chunk.codec not in ("UNCOMPRESSED", *CODECS):
            raise UnknownLayoutError(chunk.codec)
        self.chunk = chunk
        self.dictionary: Page | None = None
        self.data: list[Page] = []
        self._spans: dict[int, np.ndarray] = {}
        place, first, end = chunk.start, 0, chunk.start + chunk.size
        while first < chunk.rows and place < end:
            header, body = _header(read, place, end)
            page = _page(header, body, first, chunk.codec)
            if header[1] == DICTIONARY:
                self.dictionary = page
            elif header[1] in (DATA, DATA_V2):
                self.data.append(page)
                first += page.values
            place = body + header[3]
        if first != chunk.rows:
            raise UnknownLayoutError(f"{first} values in {chunk.rows} rows")
        self._firsts = [page.first for page in self.data]

    @property
    def largest(self) -> int:
        """The size of the largest compressed page after its decompression, in bytes; 0 if no page is compressed."""
        pages = [*self.data, *([self.dictionary] if self.dictionary else [])]
        return max((page.full for page in pages if page.codec != "UNCOMPRESSED"), default=0)

    def value(self, read: ReadAt, row: int, bodies: LRUCache[bytes], key: Any) -> bytes | None:
        """The value of a row of the chunk; None if it is null.

        Args:
            read: Function that reads from the file.
            row: The number of the row, in the chunk.
            bodies: A cache of decompressed pages.
            key: The key of this chunk in `bodies`.
        """
        number = bisect.bisect_right(self._firsts, row) - 1
        page = self.data[number]
        if number not in self._spans:
            self._spans[number] = self._find(read, page, bodies, (key, number))
        start, size = self._spans[number][row - page.first].tolist()
        if start < 0:
            return None
        if page.encoding != PLAIN:
            assert self.dictionary is not None
            page, number = self.dictionary, -1
        return _reader(read, page, bodies, (key, number))(start, size)

    def _find(self, read: ReadAt, page: Page, bodies: LRUCache[bytes], key: Any) -> np.ndarray:
        """The start and the size of each value of a page (N, 2), with -1 for null, as `_reader` takes them."""
        inside = _reader(read, page, bodies, key)
        place = page.start if page.codec == "UNCOMPRESSED" else 0
        levels = b""
        if page.levels is not None:
            levels = read(*page.levels)
        elif self.chunk.levels:
            length = int.from_bytes(inside(place, 4), "little")
            levels = inside(place + 4, length)
            place += 4 + length
        valid = np.ones(page.values, bool)
        if self.chunk.levels:
            width = self.chunk.levels.bit_length()
            valid = unpacked(levels, width, page.values) == self.chunk.levels
        spans = np.full((page.values, 2), -1, np.int64)
        count = int(valid.sum())
        if page.encoding == PLAIN:
            spans[valid] = _plain(inside, place, count)
        elif count:
            end = page.start + page.size if page.codec == "UNCOMPRESSED" else page.full
            packed = inside(place, end - place)
            spans[valid] = self._entries(read, bodies, key[0])[unpacked(packed[1:], packed[0], count)]
        return spans

    def _entries(self, read: ReadAt, bodies: LRUCache[bytes], key: Any) -> np.ndarray:
        """The start and the size of each value in the dictionary (N, 2)."""
        if self.dictionary is None:
            raise UnknownLayoutError("there is no dictionary")
        if -1 not in self._spans:
            inside = _reader(read, self.dictionary, bodies, (key, -1))
            place = self.dictionary.start if self.dictionary.codec == "UNCOMPRESSED" else 0
            self._spans[-1] = _plain(inside, place, self.dictionary.values)
        return self._spans[-1]


def unpacked(data: bytes, width: int, count: int) -> np.ndarray:
    """Decodes integers (count,) of `width` bits, which Parquet stores as runs and as bit-packed groups of eight."""
    found = np.zeros(count, np.int64)
    place = filled = 0
    while width and filled < count:
        head, place = read_varint(data, place)
        number = (head >> 1) * (8 if head & 1 else 1)
        size = (head >> 1) * width if head & 1 else (width + 7) // 8
        packed = data[place : place + size]
        taken = min(number, count - filled)
        if head & 1:
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: taken * width]
            found[filled : filled + taken] = bits.reshape(taken, width) @ (1 << np.arange(width))
        else:
            found[filled : filled + taken] = int.from_bytes(packed, "little")
        filled += taken
        place += size
    return found


def _header(read: ReadAt, place: int, end: int) -> tuple[dict[int, Any], int]:
    """Reads the header of a page. Returns its fields by their ids in parquet.thrift, and the position of the body."""
    size = HEADER
    while True:
        data = read(place, min(size, end - place))
        try:
            fields, length = read_struct(data, 0)
        except IndexError:
            if size >= end - place:
                raise UnknownLayoutError("a page has no end") from None
            size *= 16
            continue
        return fields, place + length


def _page(header: dict[int, Any], body: int, first: int, codec: str) -> Page:
    """Makes a page from its header. The numbers are the ids of the fields in parquet.thrift."""
    kind, full, size = header[1], header[2], header[3]
    if kind == DICTIONARY:
        return Page(first, header[7][1], body, size, full, codec, PLAIN, None)
    if kind == DATA:
        count, encoding, levels = header[5][1], header[5][2], header[5][3]
        page = Page(first, count, body, size, full, codec, encoding, None)
        known = levels == RLE
    elif kind == DATA_V2:
        count, encoding, definition, repetition = (header[8][key] for key in (1, 4, 5, 6))
        kept = codec if header[8].get(7, True) else "UNCOMPRESSED"
        outside = definition + repetition
        page = Page(first, count, body + outside, size - outside, full - outside, kept, encoding, (body, definition))
        known = repetition == 0
    else:
        return Page(first, 0, body, size, full, codec, PLAIN, None)
    if not known or encoding not in (PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY):
        raise UnknownLayoutError(f"encoding {encoding}")
    return page


def _reader(read: ReadAt, page: Page, bodies: LRUCache[bytes], key: Any) -> ReadAt:
    """Function that reads from a page: at positions in the file, or in the decompressed body."""
    if page.codec == "UNCOMPRESSED":
        return read

    def decompressed() -> tuple[bytes, int]:
        import pyarrow

        packed = read(page.start, page.size)
        try:
            body = pyarrow.decompress(packed, page.full, CODECS[page.codec], asbytes=True) if page.full else b""
        except OSError as error:
            raise ValueError(f"a page is damaged: {error}") from error
        return body, page.full

    body = bodies.get(key, decompressed)
    return lambda start, size: body[start : start + size]


def _plain(inside: ReadAt, place: int, count: int) -> np.ndarray:
    """The start and the size (count, 2) of values. Each value follows its size, an integer of 4 bytes."""
    spans = np.empty((count, 2), np.int64)
    for index in range(count):
        size = int.from_bytes(inside(place, 4), "little")
        spans[index] = place + 4, size
        place += 4 + size
    return spans
