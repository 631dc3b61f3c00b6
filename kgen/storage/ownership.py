"""Recognizes files that kgen made. kgen replaces only those."""

from __future__ import annotations

from pathlib import Path

from kgen.errors import ConfigError

SOFTWARE = "kgen"
"""The value of "Software", the first text in the metadata of kgen's images."""

IMAGES = "images"
"""The key for the number of images in the metadata of a PNG that shows a grid."""

SCHEMA_TITLE = "kgen run file"
"""The title of the JSON schema of run files."""

EVALUATION_TITLE = "kgen evaluation"
"""The title of a file of results."""

MARKS = (
    f"Software\0\0\0\0\0{SOFTWARE}".encode(),
    *(f'"title": "{title}"'.encode() for title in (SCHEMA_TITLE, EVALUATION_TITLE)),
)
"""Bytes near the beginning of kgen's files; in a PNG, they are in an iTXt chunk."""

BEGINNING = 1024


def require_free(path: Path) -> None:
    """Raises ConfigError if there is a file that is not empty and that kgen did not make."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if not any(mark in beginning for mark in MARKS):
        raise ConfigError(f"{path} already exists, and kgen did not make it: give another name, or move it away")
