"""Finds shards by a folder, a file name or a pattern."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.files import Files, describe, find_files
from kgen.errors import DataError

MAX_SHARDS = 1_000_000
"""Largest number of file names that the braces of a pattern may stand for."""

OTHERS = {
    r".*\.tar": "webdataset",
    r".*\.parquet": "parquet",
    r".*\.arrow": "hf",
    r".*\.array_?record(-\d+-of-\d+)?": "array_record",
}
"""For the form of a file's name, the dataset that reads such files."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Kind:
    """A kind of shard.

    Attributes:
        owner: The name of the dataset, for messages.
        suffix: The suffix of the files, for messages.
        form: The regular expression of their names.
        advice: Function that says what to do if a file of this name cannot be read. It returns None if it can be read,
            or if it is not a shard.
    """

    owner: str
    suffix: str
    form: re.Pattern[str]
    advice: Callable[[str], str | None] = lambda name: None


@dataclass(frozen=True)
class Shards:
    """The shards that were found.

    Attributes:
        root: Their folder.
        names: Their paths relative to it, sorted.
        chosen: Whether the user gave a file name or a pattern, and not a folder.
        problems: Files and folders that could not be read.
    """

    root: Path
    names: list[str]
    chosen: bool
    problems: list[Problem] = field(default_factory=list)


def find_shards(path: str, kind: Kind) -> Shards:
    """Finds shards.

    Args:
        path: A folder, which is searched with all folders in it; a file; or a pattern with "*", "**", "?", "[...]",
            "{a,b}" or "{0000..0012}".
        kind: The kind of shard.

    Raises:
        DataError: there is no shard; files of a range are missing; a shard cannot be read.
    """
    if "://" in path or path.startswith("pipe:"):
        raise DataError(f"{kind.owner}: {path} is not on this computer: copy the shards to a disk, and give its path")
    place = Path(path).expanduser()
    if place.is_dir():
        files = find_files(place, kind.owner)
        names = [name for name in files.others if kind.form.fullmatch(name.rpartition("/")[2])]
        _refuse(place, files.others, kind)
        if not names:
            raise DataError(f"{kind.owner}: {place} holds no {kind.suffix} file: {_instead(files)}")
        return Shards(place, names, False, files.problems)
    if place.exists():
        _refuse(place.parent, [place.name], kind)
        return Shards(place.parent, [place.name], True)
    if not _MAGIC.search(path):
        raise DataError(f"{kind.owner}: {place} does not exist")
    root = Path(*_fixed(place))
    names = sorted({Path(found).relative_to(root).as_posix() for found in _matches(str(place), kind)})
    _refuse(root, names, kind)
    usual = [name for name in names if kind.form.fullmatch(name.rpartition("/")[2])]
    return Shards(root, usual or names, True)


def _instead(files: Files) -> str:
    """Says what a folder holds instead of shards of a kind."""
    for form, dataset in OTHERS.items():
        if any(re.fullmatch(form, name, re.IGNORECASE) for name in files.others):
            return f"the dataset {dataset} reads what it holds: data: {{name: {dataset}, path: '{files.root}'}}"
    if files.images:
        return f"it holds images: data: {{name: imagefolder, path: '{files.root}'}}"
    return f"it holds {describe(files.others)}" if files.others else "it is empty"


def _refuse(root: Path, names: list[str], kind: Kind) -> None:
    """Raises DataError for the first file that cannot be read as a shard."""
    for name in names:
        if advice := kind.advice(name):
            raise DataError(f"{kind.owner}: {root / name}: {advice}")


def _fixed(place: Path) -> list[str]:
    """The first parts of a pattern, up to the last folder before a special character."""
    parts: list[str] = []
    for part in place.parts[:-1]:
        if _MAGIC.search(part):
            break
        parts.append(part)
    return parts


def _matches(pattern: str, kind: Kind) -> Iterator[str]:
    """The files of a pattern. Raises DataError if a name that the braces stand for matches no file."""
    missing: list[str] = []
    for count, name in enumerate(_expanded(pattern), 1):
        if count > MAX_SHARDS:
            raise DataError(f"{kind.owner}: {pattern} stands for more than {MAX_SHARDS:,} files")
        found = [name] if Path(name).is_file() else list(filter(os.path.isfile, glob.iglob(name, recursive=True)))  # noqa: PTH207
        yield from found
        missing += [] if found else [name]
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        of = f" (the pattern stands for {count})" if count > 1 else ""
        raise DataError(f"{kind.owner}: there is no file {names}{of}")


def _expanded(pattern: str) -> Iterator[str]:
    """The names that the braces of a pattern stand for, as in a shell."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    if limits := _RANGE.fullmatch(found[1]):
        width = len(limits[1]) if limits[1].startswith("0") or len(limits[1]) == len(limits[2]) else 0
        first, last = int(limits[1]), int(limits[2])
        choices: Iterator[str] = (f"{number:0{width}}" for number in range(first, last + 1))
    else:
        choices = iter(found[1].split(","))
    for choice in choices:
        yield from _expanded(pattern[: found.start()] + choice + pattern[found.end() :])
