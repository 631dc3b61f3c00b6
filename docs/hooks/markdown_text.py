"""Pieces of Markdown."""

from __future__ import annotations

import re


def anchor(name: str) -> str:
    """The anchor of a heading: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(*cells: str) -> str:
    """A row of a table. Outside of code, a vertical bar is escaped, which would else end a cell."""
    joined = (" ".join(cell.split()) for cell in cells)
    escaped = (re.sub(r"`[^`]*`|\|", lambda found: found[0] if len(found[0]) > 1 else r"\|", cell) for cell in joined)
    return f"| {' | '.join(escaped)} |"


def row(*headings: str) -> list[str]:
    """The first two lines of a table."""
    return [table(*headings), f"|{'---|' * len(headings)}"]


def code(text: str) -> str:
    """Text in the font of code."""
    return f"`{text}`" if text else ""


def to_markdown(docstring: str) -> str:
    """The text of a docstring as Markdown: sections such as "Raises:" become lists, and `::` begins a block of code."""
    lines: list[str] = []
    in_section = False
    for line in docstring.splitlines():
        if re.fullmatch(r"(Raises|Returns|Attributes|References?|Yields|Examples?|Notes?):", line):
            in_section = True
            lines += [f"**{line}**", ""]
        elif in_section and re.match(r"    \S", line):
            name, colon, text = line.strip().partition(": ")
            lines += [f"- `{name}`: {text}" if colon and re.fullmatch(r"[\w., ]+", name) else f"- {line.strip()}"]
        elif in_section and line.startswith("        "):
            lines += [f"  {line.strip()}"]
        else:
            in_section = in_section and not line
            lines += [re.sub(r"::$", ":", line)]
    return "\n".join(lines)
