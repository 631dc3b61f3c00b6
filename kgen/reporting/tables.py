"""Tables as text: CSV to compute with, and Markdown to read."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence

from kgen.reporting.plain import printable


def csv_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, followed by an empty line."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(list(map(escape, head))), line(["---"] * len(head)), *(line(list(map(escape, r))) for r in rows), ""]


def escape(text: str) -> str:
    """Escapes a text for Markdown, on one line, because names and prompts may contain any characters."""
    text = html.escape(printable(" ".join(text.split())), quote=False)
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
