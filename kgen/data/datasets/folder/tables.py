"""Captions from tables: metadata files in the format of Hugging Face, Flickr8k's captions.txt, COCO's annotations."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

from kgen.contracts.dataset import Problem, Split
from kgen.data.datasets.folder.divisions import split_named
from kgen.data.datasets.folder.files import Files, escaped, normalized, parent
from kgen.data.datasets.folder.rows import FILE_COLUMNS, Line, NotATableError, Row, read_rows
from kgen.data.encoded.captions import CAPTION_COLUMNS, MAX_CAPTION, alternatives
from kgen.errors import DataError

METADATA = re.compile(r"metadata\.(jsonl|csv|tsv|parquet)", re.IGNORECASE)
"""Names of files that must be tables of captions."""

POSSIBLE_TABLE = re.compile(r"metadata\.json|captions?(_.*)?\.(jsonl|json|csv|tsv|txt)", re.IGNORECASE)
"""Names of files that may be tables of captions: COCO's captions_train2017.json, Flickr8k's captions.txt."""

PLAIN_NAME = re.compile(r"[\w-][\w./ -]*")
"""A simple form of names, which is fast to check. Such a name is inside of its folder unless it contains ".."."""

CaptionsFrom = Literal["auto", "tables", "files", "folders", "none"]
"""The source of captions; "auto" finds the source, and refuses the folder if there are several."""


class Entry(NamedTuple):
    """A caption of an image, and the split, if the source names it."""

    file: str
    caption: str
    split: Split | None = None


@dataclass
class Captions:
    """The captions of a source.

    Attributes:
        kind: The source, as a value of the option captions_from.
        source: A description of the source for people to read.
        used: The files that were read for the captions.
        labels: The classes of the images by file; {} if there are no classes.
    """

    kind: CaptionsFrom
    source: str
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Table:
    """A table's name and rows."""

    name: str
    lines: list[Line]

    @functools.cached_property
    def columns(self) -> list[str]:
        rows = (row for _, row in self.lines if isinstance(row, dict))
        return [key for key in dict.fromkeys(itertools.chain.from_iterable(rows)) if isinstance(key, str)]

    def holds_text(self, column: str) -> bool:
        """Whether the first cell of a column is a text, or a list."""
        cells = (row[column] for _, row in self.lines if isinstance(row, dict) and column in row)
        return isinstance(next(cells, None), str | list)


class _RowError(ValueError):
    """A row cannot be used; the message says why."""


def open_tables(files: Files) -> list[Table]:
    """Opens the tables of captions. Raises DataError if one cannot be read, or if a folder contains two of them."""
    names = [name for name in files.others if METADATA.fullmatch(PurePosixPath(name).name)]
    _refuse_two(str(files.root), names)
    tables = [Table(name, read_rows(files.root / name)) for name in names]
    for name in files.others:
        own = PurePosixPath(name).name.lower()
        if POSSIBLE_TABLE.fullmatch(own) and (own == "metadata.json" or not names):
            try:
                tables.append(Table(name, read_rows(files.root / name)))
            except NotATableError:
                continue
    metadata = [table.name for table in tables if PurePosixPath(table.name).name.lower().startswith("metadata.")]
    _refuse_two(str(files.root), metadata)
    return sorted(tables, key=lambda table: table.name)


def _refuse_two(root: str, names: Sequence[str]) -> None:
    """Raises DataError for two tables in one folder."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(parent(name), name)) != name:
            both = f"{PurePosixPath(other).name} and {PurePosixPath(name).name}"
            raise DataError(f"imagefolder: {PurePosixPath(root) / parent(name)} holds both {both}: keep one")


def from_tables(files: Files, tables: Sequence[Table], caption_key: str | None) -> Captions:
    """Makes an entry for every caption of every row. An image may have several rows, or a list of captions."""
    names = [table.name for table in tables]
    found = Captions("tables", ", ".join(names) if len(names) < 4 else f"{len(names)} tables such as {names[0]}")
    finder = Finder(files)
    named: set[str] = set()
    for table in tables:
        found.used.add(table.name)
        _read_table(table, finder, caption_key, found, named)
    nowhere = f"{names[0]} has no caption" if len(names) == 1 else f"none of {found.source} has a caption"
    found.problems += [Problem(name, f"{nowhere} for it") for name in files.images if name not in named]
    return found


def _read_table(table: Table, finder: Finder, caption_key: str | None, found: Captions, named: set[str]) -> None:
    """Adds the entries and problems of a table to `found`, and the images that have a row to `named`."""
    file_column = next((c for known in FILE_COLUMNS for c in table.columns if c.lower() == known), "file_name")
    column = _caption_column(table, file_column, caption_key, f"{finder.files.root}/{table.name}")
    rows = [row for _, row in table.lines if isinstance(row, dict)]
    is_beside = finder.any_beside(table.name, dict.fromkeys(str(row.get(file_column)) for row in rows))
    find = finder.beside if is_beside else finder.below
    here = f"{parent(table.name)}/" if parent(table.name) else ""
    problems: list[Problem] = []
    lost = 0
    for where, row in table.lines:
        try:
            if isinstance(row, str):
                raise _RowError(row)
            name = row.get(file_column)
            if is_beside and isinstance(name, str) and (plain := here + name) in finder.names:
                file = plain  # nearly all names are written like this
            else:
                name = _name_of(row, file_column)
                matches = find(table.name, name)
                lost += not matches
                if len(matches) != 1:
                    raise _RowError(_no_match(name, matches))
                file = matches[0]
            named.add(file)
            found.entries += _entries(row, file, name, column)
        except _RowError as error:
            problems.append(Problem(f"{table.name}{where}", str(error)))
    if lost == len(rows) > 1:
        problems = [Problem(table.name, f"none of the {lost:,} images that it names is here: {problems[0].what}")]
    found.problems += problems


class Finder:
    """Finds the images that tables name."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.names = {*files.images, *files.others}

    def any_beside(self, table: str, names: Iterable[str]) -> bool:
        """Whether any of the names is that of a file beside or below the table."""
        return any("\0" not in name and self.beside(table, name) for name in names)

    def beside(self, table: str, name: str) -> Sequence[str]:
        """Finds the file of a name, relative to the table. Names may differ in case and in the form of accents."""
        here = parent(table)
        if (plain := f"{here}/{name}" if here else name) in self.names:
            return (plain,)
        path = (PurePosixPath(here) / name.replace("\\", "/")).as_posix()
        if path in self.names or self._is_file(path):
            return (path,)
        return self._by_path.get(normalized(path.strip()), ())

    def below(self, table: str, name: str) -> Sequence[str]:
        """Finds images whose path ends with the name, below the table, or anywhere if no images are below it."""
        wanted = normalized(PurePosixPath(name.replace("\\", "/").strip()).as_posix())
        place = f"{parent(table)}/" if parent(table) in self._folders else ""
        matches = self._by_name.get(wanted.rpartition("/")[2], ())
        return [m for m in matches if m.startswith(place) and f"/{normalized(m)}".endswith(f"/{wanted}")]

    def _is_file(self, name: str) -> bool:
        try:
            return (self.files.root / name).is_file()
        except OSError:  # a name that is too long
            return False

    @functools.cached_property
    def _by_path(self) -> dict[str, list[str]]:
        return _grouped(self.files.images, normalized)

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.files.images, lambda name: normalized(name).rpartition("/")[2])

    @functools.cached_property
    def _folders(self) -> set[str]:
        """The folders that contain images at any depth."""
        found: set[str] = set()
        for place in {parent(name) for name in self.files.images}:
            while place and place not in found:
                found.add(place)
                place = parent(place)
        return found


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _caption_column(table: Table, file_column: str, wanted: str | None, place: str) -> str:
    """Returns the column of captions. Raises DataError if it does not exist, or is ambiguous."""
    others = [column for column in table.columns if column not in (file_column, "split")]
    if wanted is not None:
        if wanted in table.columns or not others:
            return wanted
        near = difflib.get_close_matches(wanted, others, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise DataError(f"imagefolder: {place} has no '{wanted}': {hint}caption_key can be {alternatives(others)}")
    known = [column for name in CAPTION_COLUMNS for column in others if column.lower() == name]
    if (known and known[0].lower() == "text") or len(known) == 1:
        return known[0]
    if not others:
        return CAPTION_COLUMNS[0]
    texts = known or [column for column in others if table.holds_text(column)]
    if not texts:
        raise DataError(
            f"imagefolder: {place} holds no captions: there is {alternatives(others)}, which is not text. Add a column "
            "'text' with the captions, or read the images without captions, with captions_from: none"
        )
    raise DataError(f"imagefolder: {place} does not say what is a caption: set caption_key to {alternatives(texts)}")


def _name_of(row: Row, column: str) -> str:
    """Returns the name of a row's image. Raises _RowError."""
    name = row.get(column)
    if not isinstance(name, str) or not name.strip():
        raise _RowError(f"it has no '{column}'")
    if PLAIN_NAME.fullmatch(name) and ".." not in name:
        return name
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or PureWindowsPath(name).drive or ".." in parts.parts or "\0" in name:
        raise _RowError(f"{name!r} is outside the folder")
    return name


def _no_match(name: str, matches: Sequence[str]) -> str:
    if matches:
        return f"{escaped(name)} exists several times: {', '.join(matches[:3])}"
    return f"there is no image {escaped(name)}"


def _entries(row: Row, file: str, name: str, column: str) -> list[Entry]:
    """Returns one entry per caption of a row. Raises _RowError."""
    if None in row:
        raise _RowError(f"{name}: it has more fields than the table has columns: quote a caption that holds commas")
    if isinstance(text := row.get(column), str) and "split" not in row:  # nearly all rows
        caption = " ".join(text.split())
        if wrong_caption(caption, column) is None:
            return [Entry(file, caption)]
    if column not in row:
        keys = ", ".join(sorted(key for key in row if key.lower() not in FILE_COLUMNS))
        raise _RowError(f"{name}: its caption '{column}' is missing (it has: {keys or 'nothing'})")
    values = row[column] if isinstance(row[column], list) else [row[column]]
    captions = [" ".join(value.split()) if isinstance(value, str) else value for value in values]
    for caption in captions or [None]:
        if problem := wrong_caption(caption, column):
            raise _RowError(f"{name}: its caption {problem}")
    split = row.get("split")
    named = None if split is None else split_named(str(split))
    if split is not None and named is None:
        raise _RowError(f"{name}: its split {split!r} is not train, validation or test")
    return [Entry(file, caption, named) for caption in dict.fromkeys(captions)]


def wrong_caption(caption: Any, column: str) -> str | None:
    """Describes the error in a caption; None if there is none."""
    if caption is None or caption == "":
        return f"'{column}' is empty"
    if not isinstance(caption, str):
        return f"'{column}' is {str(caption)[:40]}, which is not text"
    if escaped(caption) != caption:
        return f"{escaped(caption)!r} holds half a character"
    if len(caption) > MAX_CAPTION:
        return f"'{column}' has {len(caption):,} characters, more than {MAX_CAPTION:,}"
    return None
