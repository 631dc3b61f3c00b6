"""The index of the Python reference: every name that the other pages document, with the first line of its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown_text import row, table

from kgen.options.documentation import first_paragraph

FOLDER = Path(__file__).parents[1] / "reference" / "python"

INTRODUCTION = """\
# Python

These names are public: they keep their meaning until the number of the contract changes. `import kgen` imports no
framework; a name imports what it needs when it is first used. Other modules of kgen are not public.
"""


def python_page() -> dict[str, str]:
    """The text of the page, by its path."""
    lines = [INTRODUCTION, *row("name", "")]
    for page, name in documented():
        found = _find(name)
        link = f"[`{name}`]({page})" if inspect.ismodule(found) else f"[`{name}`][{name}]"
        lines += [table(link, _summary(found))]
    return {"reference/python/index.md": "\n".join(lines) + "\n"}


def documented() -> Iterator[tuple[str, str]]:
    """Yields each page with the names that it documents."""
    for page in sorted(FOLDER.glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            yield page.name, name


def _summary(found: Any) -> str:
    if not (inspect.isclass(found) or inspect.isfunction(found) or inspect.ismodule(found)):
        return ""
    return first_paragraph(found)


def _find(name: str) -> Any:
    package, _, own = name.rpartition(".")
    try:
        return getattr(importlib.import_module(package), own)
    except AttributeError:
        return importlib.import_module(name)
