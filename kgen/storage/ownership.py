"""Knows which files kgen made: kgen replaces those, and no others."""

from __future__ import annotations

from pathlib import Path

from kgen.errors import ConfigError

SOFTWARE = "kgen"
"""The value of "Software", the first text in the metadata of kgen's images."""

IMAGES = "images"
"""Key of the metadata of a PNG that shows several images in a grid: how many."""

SCHEMA_TITLE = "kgen run file"
"""Of the schema of run files."""

MARKS = (f"Software\0\0\0\0\0{SOFTWARE}".encode(), f'"title": "{SCHEMA_TITLE}"'.encode())
"""What stands near the beginning of kgen's files; of a PNG, in a chunk iTXt."""

BEGINNING = 1024


def require_free(path: Path) -> None:
    """Raises ConfigError where there is a file that is not empty and that kgen did not make."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if not any(mark in beginning for mark in MARKS):
        raise ConfigError(f"{path} is there already, and kgen did not make it: give another name, or move it away")
