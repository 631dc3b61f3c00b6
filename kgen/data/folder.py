"""Finds the pictures of a folder and their captions, and says what is wrong with either."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from kgen.components.dataset import Problem
from kgen.errors import DataError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif")
)
METADATA = ("metadata.jsonl", "metadata.csv")


@dataclass
class Folder:
    """What was found: (file, caption) pairs, files relative to the folder; and problems."""

    entries: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_folder(path: Path, caption_key: str, template: str) -> Folder:
    """Reads captions from the first of these that there is.

    1. ``metadata.jsonl`` or ``metadata.csv``, here or in folders below, whose rows hold "file_name", beside or below
       the table, and the caption under `caption_key`; a picture may have several rows.
    2. ``NAME.txt`` beside ``NAME.png``.
    3. The folder that a picture lies in: `template`, with {label} for the folder's name ("_" becomes a space).

    Raises:
        DataError: there is no such folder, or no picture in it, or nothing to take captions from.
    """
    files = _files(path)
    pictures = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not pictures:
        raise DataError(f"imagefolder: {path} holds no picture ({', '.join(sorted(SUFFIXES))})")
    if tables := [name for name in files if PurePosixPath(name).name in METADATA]:
        return _from_tables(path, tables, set(pictures), caption_key)
    if any((path / picture).with_suffix(".txt").is_file() for picture in pictures):
        return _from_texts(path, pictures, [name for name in files if name.endswith(".txt")])
    if any("/" in picture for picture in pictures):
        return _from_labels(path, pictures, template)
    raise DataError(
        f"imagefolder: nothing in {path} says what the pictures show: write {METADATA[0]} with a line such as "
        f'{{"file_name": "{pictures[0]}", "{caption_key}": "a red heart"}} for each, or NAME.txt beside each picture'
    )


def _files(path: Path) -> list[str]:
    """Every file that is not hidden, in order."""
    if not path.is_dir():
        raise DataError(f"imagefolder: {path} is {'not a folder' if path.exists() else 'not there'}")
    names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    found = sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    for name in found:
        if _printable(name) != name:
            raise DataError(f"imagefolder: {path}: the name of '{_printable(name)}' is not UTF-8 text: rename the file")
    return found


def _from_tables(path: Path, tables: list[str], pictures: set[str], caption_key: str) -> Folder:
    found, named = Folder(), set()
    places = [PurePosixPath(table).parent for table in tables]
    for table, place in zip(tables, places, strict=True):
        if places.count(place) > 1:
            raise DataError(f"imagefolder: {path / place} holds both {' and '.join(METADATA)}: keep one")
        for number, row in _rows(path / table):
            if isinstance(row, str):
                found.problems.append(Problem(f"{table}:{number}", row))
                continue
            problem = _wrong_name(path / place, row.get("file_name"))
            if problem is None:
                file = (place / row["file_name"].replace("\\", "/")).as_posix()
                named.add(file)
                problem = _wrong_caption(row, caption_key)
            if problem is None:
                found.entries.append((file, " ".join(row[caption_key].split())))
            else:
                found.problems.append(Problem(f"{table}:{number}", problem))
    nowhere = f"{tables[0]} has no caption" if len(tables) == 1 else f"none of {', '.join(tables)} has a caption"
    found.problems += [Problem(name, f"{nowhere} for it") for name in sorted(pictures - named)]
    return found


def _wrong_name(folder: Path, name: Any) -> str | None:
    """What is wrong with a row's file_name; None: nothing."""
    if not isinstance(name, str) or not name.strip():
        return "it has no 'file_name'"
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or PureWindowsPath(name).drive or ".." in parts.parts or "\0" in name:
        return f"{name!r} is outside the folder"
    try:
        there = (folder / parts).is_file()
    except OSError:  # a name that is too long
        there = False
    return None if there else f"there is no picture {_printable(name)}"


def _wrong_caption(row: dict[str, Any], caption_key: str) -> str | None:
    """What is wrong with a row's caption; None: nothing."""
    name, caption = row["file_name"], row.get(caption_key)
    if None in row:
        return f"{name}: it has more fields than the table has columns: quote a caption that holds commas"
    if not isinstance(caption, str) or not caption.strip():
        keys = ", ".join(sorted(key for key in row if key != "file_name"))
        what = "is empty" if caption_key in row else f"is not there (there is: {keys or 'nothing'})"
        return f"{name}: its caption '{caption_key}' {what}"
    if _printable(caption) != caption:
        return f"{name}: its caption {_printable(caption)!r} holds half a character"
    return None


def _printable(text: str) -> str:
    """The same text, unless it holds what UTF-8 cannot: half of a surrogate pair, from a text cut in the middle."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers with rows; a text instead of a row says what is wrong with it."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"imagefolder: {table} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"imagefolder: {table} cannot be read: {error}") from error
    if table.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            if "file_name" not in (reader.fieldnames or ()):
                raise DataError(f"imagefolder: {table}: its first line must name the columns, one of them 'file_name'")
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"imagefolder: {table}:{reader.line_num}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"this is not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "this is not a JSON object, such as {...}"


def _from_texts(path: Path, pictures: list[str], texts: list[str]) -> Folder:
    found = Folder()
    for name in pictures:
        text = (path / name).with_suffix(".txt")
        if not text.is_file():
            found.problems.append(Problem(name, f"there is no caption {text.name} beside it"))
            continue
        try:
            caption = " ".join(text.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            found.problems.append(Problem(name, f"its caption {text.name} is not UTF-8 text"))
            continue
        except OSError as error:
            found.problems.append(Problem(name, f"its caption {text.name} cannot be read: {error}"))
            continue
        if caption:
            found.entries.append((name, caption))
        else:
            found.problems.append(Problem(name, f"its caption {text.name} is empty"))
    known = {PurePosixPath(name).with_suffix(".txt") for name in pictures}
    folders = {file.parent for file in known}
    lonely = [file for file in map(PurePosixPath, texts) if file not in known and file.parent in folders]
    found.problems += [Problem(str(file), "there is no picture of this name beside it") for file in lonely]
    return found


def _from_labels(path: Path, pictures: list[str], template: str) -> Folder:
    found = Folder()
    for name in pictures:
        label = (path / name).parent.name.replace("_", " ")
        if "/" in name:
            found.entries.append((name, template.replace("{label}", label)))
        else:
            found.problems.append(Problem(name, "it lies in no folder that names its class"))
    return found
