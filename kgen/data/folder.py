"""Finds the pictures of a folder and their captions, and says what is wrong with either."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
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

    1. ``metadata.jsonl`` or ``metadata.csv``, whose rows hold "file_name" and the caption under `caption_key`; a
       picture may have several rows.
    2. ``NAME.txt`` beside ``NAME.png``.
    3. The folder that a picture lies in: `template`, with {label} for the folder's name ("_" becomes a space).

    Raises:
        DataError: there is no such folder, or no picture in it, or nothing to take captions from.
    """
    pictures = _pictures(path)
    tables = [path / name for name in METADATA if (path / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"imagefolder: {path} holds both {' and '.join(METADATA)}: keep one")
    if tables:
        return _from_table(path, tables[0], set(pictures), caption_key)
    if any((path / picture).with_suffix(".txt").is_file() for picture in pictures):
        return _from_texts(path, pictures)
    if any("/" in picture for picture in pictures):
        return _from_labels(path, pictures, template)
    raise DataError(
        f"imagefolder: nothing in {path} says what the pictures show: write {METADATA[0]} with a line such as "
        f'{{"file_name": "{pictures[0]}", "{caption_key}": "a red heart"}} for each, or NAME.txt beside each picture'
    )


def _pictures(path: Path) -> list[str]:
    if not path.is_dir():
        raise DataError(f"imagefolder: {path} is {'not a folder' if path.exists() else 'not there'}")
    files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    names = (file.relative_to(path) for file in files)
    found = sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    if not found:
        raise DataError(f"imagefolder: {path} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return found


def _from_table(path: Path, table: Path, pictures: set[str], caption_key: str) -> Folder:
    found, named = Folder(), set()
    for number, row in _rows(table):
        where = f"{table.name}:{number}"
        if isinstance(row, str):
            found.problems.append(Problem(where, row))
            continue
        name, caption = row.get("file_name"), row.get(caption_key)
        problem = _wrong_name(path, name)
        if problem is None:
            file = PurePosixPath(str(name).replace("\\", "/")).as_posix()
            named.add(file)
            if not isinstance(caption, str) or not caption.strip():
                keys = ", ".join(sorted(key for key in row if key and key != "file_name"))
                what = "is empty" if caption_key in row else f"is not there (there is: {keys or 'nothing'})"
                problem = f"{name}: its caption '{caption_key}' {what}"
        if problem is None:
            found.entries.append((file, " ".join(str(caption).split())))
        else:
            found.problems.append(Problem(where, problem))
    found.problems += [Problem(name, f"{table.name} has no caption for it") for name in sorted(pictures - named)]
    return found


def _wrong_name(path: Path, name: Any) -> str | None:
    """What is wrong with a row's file_name; None: nothing."""
    if not isinstance(name, str) or not name.strip():
        return "it has no 'file_name'"
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0] or "\0" in name:
        return f"{name!r} is outside the folder"
    return None if (path / parts).is_file() else f"there is no picture {name}"


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers with rows; a text instead of a row says what is wrong with it."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"imagefolder: {table} is not UTF-8 text: {error}") from error
    if table.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
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


def _from_texts(path: Path, pictures: list[str]) -> Folder:
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
        if caption:
            found.entries.append((name, caption))
        else:
            found.problems.append(Problem(name, f"its caption {text.name} is empty"))
    known = {(path / name).with_suffix(".txt") for name in pictures}
    for text in sorted(path.rglob("*.txt")):
        if text not in known and any(text.parent == file.parent for file in known):
            found.problems.append(
                Problem(text.relative_to(path).as_posix(), "there is no picture of this name beside it")
            )
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
