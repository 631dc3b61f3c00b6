"""Sections that plugins add to the report of a run: a text, a table and images."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pydantic

from kgen.errors import ConfigError
from kgen.experiments.directory import RunDirectory
from kgen.storage.files import write_text
from kgen.storage.json_file import read_json

FOLDER = "sections"
"""The folder of a run with one JSON file for each section."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class ReportSection:
    """A section of the report of a run.

    Args:
        title: The heading.
        text: Paragraphs, which say what was measured, and how.
        head: The names of the columns of the table; (): there is no table.
        rows: The rows of the table, with one text for each column.
        images: The captions of PNG files, by their names in the folder `sections` of the run.

    Raises:
        ValueError: a row has another number of columns than the head.
    """

    title: str
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} columns, but the head has {len(self.head)}: {row}")


class _Stored(pydantic.BaseModel):
    title: str
    text: list[str]
    head: list[str]
    rows: list[list[str]]
    images: dict[str, str]


def sections_folder(directory: RunDirectory) -> Path:
    """The folder of a run with its sections, and with their images."""
    return directory.path / FOLDER


def write_section(directory: RunDirectory, name: str, section: ReportSection) -> None:
    """Writes a section, in place of an older one of this name.

    Raises:
        ConfigError: the name has other characters than small letters, digits and hyphens.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"a section of a report is named '{name}': use small letters, digits and hyphens")
    folder = sections_folder(directory)
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(asdict(section), indent=1, ensure_ascii=False) + "\n")


def read_sections(directory: RunDirectory) -> list[ReportSection]:
    """The sections of a run, in the order of their names. Raises RunError if a file is damaged."""
    found = [read_json(path, _Stored) for path in sorted(sections_folder(directory).glob("*.json"))]
    return [ReportSection(**stored.model_dump()) for stored in found]
