"""Reads the rows of tables: JSON lines, JSON arrays, COCO's JSON, separated values, and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kgen.data.datasets.folder.files import SUFFIXES, suffix
from kgen.data.encoded.captions import TextError, decode_text
from kgen.errors import DataError

FILE_COLUMNS = (
    *("file_name", "filename", "file", "image_file_name", "image_name", "image_path", "image"),
    *("img", "filepath", "path"),
)
"""Names of the column with file names, in lower case; the first one that exists is used."""

SEPARATORS = (",", ";", "\t", "|")

MAX_LINES = 1000
"""Largest number of lines in a quoted cell; in a longer one, a quote is missing."""

BLOCK = 1000
"""Number of JSON lines that are parsed in one call."""

Row = dict[Any, Any]
"""Cells by column; the key None holds the cells beyond the last column."""

Line = tuple[str, Row | str]
"""The place of a row in its table, such as ":3", and the row, or the error in it."""


class NotATableError(DataError):
    """A file has the name of a table of captions, but its content is not a table."""


def read_text(path: Path) -> str:
    """Reads a file as UTF-8, or in the encoding of its byte order mark. Raises TextError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TextError(f"cannot be read: {error.strerror}") from error
    return decode_text(data, str(path))


def read_rows(path: Path) -> list[Line]:
    """Reads all rows of a table.

    Raises:
        NotATableError: the content is not a table.
        DataError: the file cannot be read.
    """
    if suffix(path.name) == ".parquet":
        return list(_parquet(path))
    try:
        text = read_text(path)
    except TextError as error:
        raise DataError(f"imagefolder: {path} {error}") from error
    if suffix(path.name) == ".jsonl":
        return list(_json_lines(text))
    if suffix(path.name) == ".json":
        return list(_json(text, path))
    return list(_cells(list(io.StringIO(text, newline="")), path))


def _parquet(path: Path) -> Iterator[Line]:
    """Reads the columns of a Parquet file that are not bytes."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"imagefolder: to read {path}, pip install 'kgen-core[parquet]' ({error}). Or make a CSV of it: python -c "
            f"\"import pandas; pandas.read_parquet('{path}').to_csv('{path.with_suffix('.csv')}', index=False)\""
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
            rows = file.read(columns=columns).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"imagefolder: {path} is damaged, or not a Parquet file: {error}") from error
    if not {name.lower() for name in columns} & set(FILE_COLUMNS):
        raise DataError(f"imagefolder: {path} has no column 'file_name': it has {', '.join(columns)}")
    for number, row in enumerate(rows):
        yield f":{number}", row


def _json_lines(text: str) -> Iterator[Line]:
    lines = text.rstrip("\n").split("\n")
    for start in range(0, len(lines), BLOCK):
        block = lines[start : start + BLOCK]
        rows = _objects(block)
        if rows is None:  # there are empty lines, or errors
            yield from _json_line_by_line(block, start + 1)
        else:
            yield from ((f":{number}", row) for number, row in enumerate(rows, start + 1))


def _objects(lines: Sequence[str]) -> list[Row] | None:
    """Parses all lines in one call, which is faster. Returns None if one of them is not a JSON object."""
    try:
        found = json.loads(f"[[{'],['.join(lines)}]]")  # a list for each line: no line can continue the one before it
    except (ValueError, RecursionError):
        return None
    rows = [held[0] for held in found if len(held) == 1 and type(held[0]) is dict]
    return rows if len(rows) == len(found) == len(lines) else None


def _json_line_by_line(lines: Sequence[str], first: int) -> Iterator[Line]:
    """Reads lines. `first` is the number of the first one, for messages."""
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f":{number}", f"this is not JSON: {error}"
            continue
        yield f":{number}", row if isinstance(row, dict) else "this is not a JSON object, such as {...}"


def _json(text: str, path: Path) -> Iterator[Line]:
    """Reads an array of rows, COCO's captions, or a mapping from names to captions or rows."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"imagefolder: {path} is not JSON: {error}") from error
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        rows = content
    elif isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        rows = _coco(content, path)
    elif isinstance(content, dict) and content and all(suffix(name) in SUFFIXES for name in content):
        rows = [
            {**value, "file_name": name} if isinstance(value, dict) else {"file_name": name, "text": value}
            for name, value in content.items()
        ]
    else:
        raise NotATableError(
            f"imagefolder: {path} holds no list of captions, such as "
            '[{"file_name": "1.png", "text": "a red heart"}, ...]'
        )
    for number, row in enumerate(rows, 1):
        yield f", entry {number}", row


def _coco(content: dict[str, Any], path: Path) -> list[Row]:
    """Reads captions of COCO (https://cocodataset.org/#format-data): annotations that refer to images by a number."""
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        return [{"file_name": names.get(a["image_id"]), "caption": a["caption"]} for a in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise NotATableError(f"imagefolder: {path} is like COCO's files, but holds no captions ({error})") from error


def _cells(lines: Sequence[str], path: Path) -> Iterator[Line]:
    first, separator, columns = _columns(lines, path)
    names = [name.lower() for name in columns]
    column = names.index(next(name for name in FILE_COLUMNS if name in names))
    number = first
    while number < len(lines):
        row, count = _record(lines, number, separator, column)
        if isinstance(row, str):
            yield f":{number + 1}", row
        elif row:
            found: Row = dict(zip(columns, [*row, *[None] * len(columns)], strict=False))
            if len(row) > len(columns):
                found[None] = row[len(columns) :]
            yield f":{number + count}", found
        number += count


def _columns(lines: Sequence[str], path: Path) -> tuple[int, str, list[str]]:
    """Returns the first line of the rows, the separator, and the names of the columns. Raises NotATableError."""
    first = 0
    separators: tuple[str, ...] = SEPARATORS
    if lines and (said := re.fullmatch(r"sep=(.)\s*", lines[0])):  # as Excel writes it
        first, separators = 1, (said[1],)
    for separator in separators:
        try:
            rows = list(csv.reader(lines[first : first + 1], delimiter=separator, skipinitialspace=True))
        except csv.Error:
            continue
        columns = [name.strip() for name in rows[0]] if rows else []
        if {name.lower() for name in columns} & set(FILE_COLUMNS):
            if len(set(columns)) < len(columns):
                raise DataError(f"imagefolder: {path}: two of its columns have the same name: {columns}")
            return first + 1, separator, columns
    raise NotATableError(f"imagefolder: {path}: its first line must name the columns, one of them 'file_name'")


def _record(lines: Sequence[str], first: int, separator: str, column: int) -> tuple[list[str] | str, int]:
    """Returns a row, or the error in it, and its number of lines.

    A quoted cell may contain line breaks. If it would include another row, or the rest of the table, a quote is
    missing. Then only the line with the single quote is lost.
    """
    for count in range(1, MAX_LINES + 1):
        last = first + count - 1
        if last >= len(lines) or (count > 1 and _is_row(lines[last], separator, column)):
            break
        try:
            rows = list(csv.reader(lines[first : last + 1], delimiter=separator, skipinitialspace=True, strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                continue
            if "field limit" in str(error):
                return f"a cell is longer than {csv.field_size_limit():,} characters", 1
            return 'a quote inside a cell must be doubled, and the cell must be quoted: "a 24"" screen"', 1
        return (rows[0] if rows else []), count
    return 'a cell begins with a quote that is never closed: write "a 24"" screen" for a 24" screen', 1


def _is_row(line: str, separator: str, column: int) -> bool:
    """Whether a line has the name of an image in the column of names."""
    cells = line.split(separator)
    return len(cells) > max(column, 1) and suffix(cells[column].strip().strip('"')) in SUFFIXES
