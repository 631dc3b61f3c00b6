"""Tells which images of a dataset changed since a run began, by a list of all images in the run directory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path

from kgen.contracts.dataset import Dataset
from kgen.data.encoded.garbage import paused_garbage_collection
from kgen.storage.files import atomic_file

MAX_NAMED = 3
"""Largest number of images that a message names for each kind of change."""

Inventory = Mapping[str, tuple[str, str]]
"""`Dataset.inventory`: texts that change with an image, and with its captions, by the image's name."""

HEADER = '{"format": 2}'
"""The first line of an inventory."""


def write_inventory(dataset: Dataset, path: Path) -> None:
    """Writes the dataset's inventory as gzip-compressed JSON lines: [name, text of the image, text of its captions].

    The same dataset gives the same bytes.
    """
    with paused_garbage_collection():
        rows = sorted(dataset.inventory().items())
        lines = [f"[{_quoted(name)}, {_quoted(image)}, {_quoted(captions)}]" for name, (image, captions) in rows]
    data = "".join(f"{line}\n" for line in [HEADER, *lines]).encode()
    with atomic_file(path) as temporary:
        temporary.write_bytes(gzip.compress(data, compresslevel=1, mtime=0))


def read_inventory(path: Path) -> Inventory | None:
    """Reads an inventory; None if the file is missing, empty, damaged or of another version, because only a message
    depends on it."""
    try:
        header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        rows = [json.loads(line) for line in lines] if header == HEADER else []
        return {name: (image, captions) for name, image, captions in rows} or None
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        return None


def changes(before: Inventory, after: Inventory) -> str:
    """Says what differs: "1 image was added (cat/9.png), the captions of 2 changed (a.png, b.png)".

    It returns "" if nothing differs. A renamed image counts as one removed and one added image.
    """
    both = sorted(before.keys() & after.keys())
    images = [name for name in both if before[name][0] != after[name][0]]
    captions = [name for name in both if before[name][1] != after[name][1]]
    parts = [
        _part(sorted(after.keys() - before.keys()), "was added", "were added"),
        _part(sorted(before.keys() - after.keys()), "was removed", "were removed"),
        _part(images, "changed", "changed"),
        f"the captions of {len(captions)} changed ({_some(captions)})" if captions else "",
    ]
    return ", ".join(part for part in parts if part)


def _part(names: Sequence[str], one: str, many: str) -> str:
    if not names:
        return ""
    return f"{len(names)} image{f's {many}' if len(names) > 1 else f' {one}'} ({_some(names)})"


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
