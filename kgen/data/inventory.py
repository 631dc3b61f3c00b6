"""Tells which images of a dataset changed since a run began, by a list of digests in the run directory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kgen.contracts.dataset import Dataset
from kgen.storage.files import atomic_file

MAX_NAMED = 3
"""Largest number of images that a message names for each kind of change."""

Inventory = Mapping[str, tuple[str, str]]
"""`Dataset.inventory`: digests of an image and of its captions, by the image's name."""


def write_inventory(dataset: Dataset, path: Path) -> None:
    """Writes the dataset's inventory as gzip-compressed JSON lines: [name, digest of image, digest of captions].

    It takes about 20 bytes per image. The same dataset gives the same bytes.
    """
    lines = (json.dumps([name, *digests], ensure_ascii=True) for name, digests in sorted(dataset.inventory().items()))
    data = "".join(f"{line}\n" for line in lines).encode()
    with atomic_file(path) as temporary:
        temporary.write_bytes(gzip.compress(data, compresslevel=4, mtime=0))


def read_inventory(path: Path) -> Inventory | None:
    """Reads an inventory; None if the file is missing, empty or damaged, because only a message depends on it."""
    try:
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
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
