"""Reads the captions and labels of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.tables import wrong_caption
from kgen.data.datasets.table.columns import Columns


@dataclass
class Texts:
    """The captions and labels of a table, by the names of images, which are "FILE:ROW"."""

    entries: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_texts(table: Any, columns: Columns, file: str, rows: int, template: str) -> Texts:
    """Makes an entry for every caption of every row.

    Args:
        table: A `pyarrow.Table` with the columns of captions and labels.
        columns: The names of the columns.
        file: The name of the file.
        rows: The number of rows.
        template: The caption if there is no column of captions, with {label} in place of the name of the label.
    """
    found = Texts()
    captions = None if columns.caption is None else table.column(columns.caption).to_pylist()
    labels = None if columns.label is None else table.column(columns.label).to_pylist()
    for row in range(rows):
        name = f"{file}:{row}"
        label = ""
        if labels is not None:
            label = _label(labels[row], columns.classes) or ""
            if not label:
                found.problems.append(Problem(name, f"its '{columns.label}' is {labels[row]!r}, which names no class"))
                continue
        if captions is None:
            texts: Sequence[Any] = [template.replace("{label}", label)]
        else:
            texts = _captions(captions[row])
        if wrong := next(filter(None, (wrong_caption(text, str(columns.caption)) for text in texts or [None])), None):
            found.problems.append(Problem(name, f"its caption {wrong}"))
            continue
        found.entries += [(name, text) for text in dict.fromkeys(texts)]
        if label:
            found.labels[name] = label
    return found


def _captions(value: Any) -> list[Any]:
    """The captions of a cell: a text, or a list of texts. White space is reduced to single spaces."""
    values = value if isinstance(value, list) else [value]
    return [" ".join(text.split()) if isinstance(text, str) else text for text in values]


def _label(value: Any, classes: Sequence[str]) -> str | None:
    """The name of a label, in which "_" becomes a space; None if there is none."""
    if isinstance(value, int) and classes:
        return classes[value].replace("_", " ") if 0 <= value < len(classes) else None
    return None if value is None else " ".join(str(value).replace("_", " ").split())
