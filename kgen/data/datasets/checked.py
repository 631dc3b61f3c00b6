"""Remembers which files of a folder were read without an error, so that a later start does not read them again."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kgen.data.cache import cache_folder, hash_of
from kgen.errors import KgenError
from kgen.storage.files import write_text

FORMAT = 1

DIGEST = re.compile("[0-9a-f]{64}")

SETTLED = 2.0
"""The age of a change, in seconds, from which on a later change has another time on every file system."""


class Checked(NamedTuple):
    """A file that could be read.

    Args:
        size: Its size, in bytes.
        time: The time of the last change of its content, in nanoseconds.
        entry: The time of the last change of its entry in the file system, which copying and `touch` cannot set. (On
            Windows, it is that of its creation.)
        digest: The SHA-256 of its content, in hexadecimal digits.
    """

    size: int
    time: int
    entry: int
    digest: str

    def holds_for(self, status: os.stat_result) -> bool:
        """Whether the file is still the same, as far as its size and its times tell."""
        return (self.size, self.time, self.entry) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_checked(folder: Path) -> dict[str, Checked]:
    """The files of a folder that `write_checked` remembered, by name; empty if there is no memory of it."""
    try:
        rows = json.loads(_memory(folder).read_bytes())
        files = {name: Checked(*row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    valid = all(isinstance(file.digest, str) and DIGEST.fullmatch(file.digest) for file in files.values())
    return files if valid else {}


def write_checked(folder: Path, files: Mapping[str, Checked]) -> None:
    """Remembers files of a folder, in place of those that were remembered before.

    A file that changed just now is left out: a second change in the same moment would leave its time as it is. If
    kgen's cache cannot be written, nothing is remembered, and the next start reads the files again.
    """
    until = (time.time() - SETTLED) * 1e9
    settled = {name: file for name, file in files.items() if file.time < until}
    with suppress(OSError, KgenError):
        write_text(_memory(folder), json.dumps(settled))


def _memory(folder: Path) -> Path:
    return cache_folder() / f"checked-{hash_of({'format': FORMAT, 'folder': str(folder.resolve())})}.json"
