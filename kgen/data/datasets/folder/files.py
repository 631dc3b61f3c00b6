"""Finds all files below a folder, also behind symbolic links, and recognizes images by their names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kgen.contracts.dataset import Problem
from kgen.errors import DataError

SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
        *(".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""Suffixes of image files: those of `kgen.data.images.FORMATS`."""

LEFT_BY_SYSTEMS = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
"""Files and folders that operating systems create, in lower case. They are ignored, like hidden ones."""

MAX_KINDS = 8
"""Largest number of file types that `describe` names."""


@dataclass
class Files:
    """The files below a folder, as sorted names relative to it, and the problems that were found."""

    root: Path
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_files(root: Path, owner: str = "imagefolder") -> Files:
    """Finds all files in folders that are not hidden.

    Symbolic links are followed. Each folder is read only once, and run directories of kgen are ignored.

    Args:
        root: The folder.
        owner: The name of the dataset, for messages.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{owner}: {root} {'is not a folder' if root.exists() else 'does not exist'}")
    found = Files(root)
    for name in sorted(_names(root, found.problems)):
        if not name.isascii() and escaped(name) != name:
            found.problems.append(Problem(escaped(name), "its name is not UTF-8 text: rename the file"))
        else:
            (found.images if suffix(name) in SUFFIXES else found.others).append(name)
    return found


def suffix(name: str) -> str:
    """The suffix of a name in lower case, such as ".png"; "" if it has none."""
    found = os.path.splitext(name)[1].lower()  # noqa: PTH122 - faster, for millions of files
    return "" if found == "." else found


def parent(name: str) -> str:
    """The folder of a file; "" for the root."""
    return name.rpartition("/")[0]


def escaped(text: str) -> str:
    """Escapes the parts of a text that UTF-8 cannot represent (halves of surrogate pairs, from texts that were cut)."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def normalized(name: str) -> str:
    """A normal form of names that differ only in case, or in the Unicode form of accents (NFC or NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def describe(names: Iterable[str]) -> str:
    """Counts files by suffix, with an example of each: "2 .heic (cat/1.heic), 1 without a suffix (cat/f)"."""
    return describe_kinds(count_kinds(names))


def count_kinds(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """The number of files of each suffix, and an example."""
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        count, example = found.get(kind := suffix(name), (0, name))
        found[kind] = (count + 1, example)
    return found


def describe_kinds(counts: Mapping[str, tuple[int, str]]) -> str:
    """Describes the result of `count_kinds`, from the most frequent suffix on."""
    ordered = sorted(counts.items(), key=lambda item: -item[1][0])
    kinds = [f"{count} {kind or 'without a suffix'} ({example})" for kind, (count, example) in ordered]
    more = len(kinds) - MAX_KINDS
    return ", ".join(kinds[:MAX_KINDS]) + (f", and {more} more kinds" if more > 0 else "")


def some_names(names: Collection[str], limit: int = 3) -> str:
    """The first `limit` names, quoted."""
    first = sorted(names)[:limit]
    return ", ".join(f"'{name}'" for name in first) + (", ..." if len(names) > limit else "")


def _names(root: Path, problems: list[Problem]) -> Iterator[str]:
    """Yields the relative names of all files. If several links lead to a folder, it is read only the first time."""
    status = root.stat()
    seen = {(status.st_dev, status.st_ino): "."}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(root / prefix) as entries:  # each entry knows whether it is a file
                found = {entry.name: entry for entry in entries}
        except OSError as error:
            where = prefix.rstrip("/") or "."
            problems.append(Problem(escaped(where), f"the folder cannot be read: {error.strerror}"))
            continue
        folders = []
        if _is_run(found):
            continue
        for name, entry in found.items():
            if not _is_wanted(name):
                continue
            try:
                is_file = entry.is_file()
                is_folder = not is_file and entry.is_dir()
            except OSError:  # a link to itself
                is_file = is_folder = False
            if is_file:
                yield prefix + name
            elif is_folder:
                folders.append(entry)
            elif entry.is_symlink():
                problems.append(Problem(escaped(prefix + name), "this symbolic link is broken"))
        new = [folder for folder in sorted(folders, key=_name) if _is_new(folder, prefix, seen, problems)]
        waiting += [f"{prefix}{folder.name}/" for folder in reversed(new)]


def _is_run(files: Collection[str]) -> bool:
    """Whether a folder with these files is a run directory of kgen, whose samples are not training images."""
    return "config.yaml" in files and (".lock" in files or "manifest.json" in files)


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LEFT_BY_SYSTEMS


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_new(folder: os.DirEntry[str], prefix: str, seen: dict[tuple[int, int], str], problems: list[Problem]) -> bool:
    """Whether a folder is new. If it is not, a problem is added, unless a link leads back to a folder above."""
    status = os.stat(folder)  # noqa: PTH116 - `folder.stat()` has no inode on Windows
    name = prefix + folder.name
    before = seen.setdefault((status.st_dev, status.st_ino), name)
    if before == name:
        return True
    if before != "." and not name.startswith(f"{before}/"):
        problems.append(Problem(escaped(name), f"this folder is the same as {escaped(before)}: it is read only once"))
    return False
