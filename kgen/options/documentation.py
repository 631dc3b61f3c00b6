"""Docstrings of components: the options, which base classes may describe, and what the loss is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HEADING = "Args:"
"""The line before the descriptions of the arguments."""

RETURNS = "Returns "
"""The first word of a docstring that says what a method returns."""

_NAMES = re.compile(r"    (\w+(?:, \w+)*): ")
"""The beginning of a description. Several arguments may share it."""


@dataclass(frozen=True)
class Description:
    """A docstring in its parts: the text before the arguments, the text of each argument, and the text after them."""

    text: str
    arguments: dict[str, str]
    rest: str


def described(target: Callable[..., Any], owner: type[Any] | None = None) -> Description:
    """The docstring of a class, a function or a method, in its parts.

    Args:
        target: The class, function or method.
        owner: The class of a method, whose base classes may describe further arguments.
    """
    if isinstance(target, type):
        docstrings = [documentation(target)]
    elif owner is not None:
        bases = (vars(base).get(target.__name__) for base in reversed(owner.__mro__))
        docstrings = [inspect.getdoc(base) or "" for base in bases if base is not None]
    else:
        docstrings = [inspect.getdoc(target) or ""]
    arguments: dict[str, str] = {}
    before, rest = [""], [""]
    for docstring in docstrings:
        before, found, rest = _parsed(docstring)
        arguments |= {name: " ".join(text.partition(": ")[2].split()) for name, text in found.items()}
    return Description("\n".join(before).strip(), arguments, "\n".join(rest).strip())


def first_paragraph(documented: Any) -> str:
    """The first paragraph of an object's own docstring, in one line and without an example; "" if there is none."""
    text = inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0].partition("::")[0]
    return " ".join(text.split())


def described_loss(cls: type[Any]) -> str:
    """What the loss of a component is, as the docstring of its `compute_losses` says: "Returns ..."; else ""."""
    text = first_paragraph(cls.compute_losses) if hasattr(cls, "compute_losses") else ""
    return _noun(text) if text.startswith(RETURNS) else ""


def described_scores(cls: type[Any]) -> str:
    """What the scores of an encoder or a decoder are, as the docstring of its `scores` says; "" if it has none."""
    return _noun(first_paragraph(cls.scores))


def _noun(text: str) -> str:
    """A sentence about a number, without the verb "Returns"."""
    text = text.removeprefix(RETURNS)
    return text[:1].upper() + text[1:]


def documentation(cls: type[Any]) -> str:
    """The docstring of a class, with the descriptions of all options, in the order of the signature.

    If the class does not describe an option, the nearest base class that does is used.
    """
    text = inspect.getdoc(cls) or ""
    before, own, after = _parsed(text)
    parameters = inspect.signature(cls.__init__).parameters.values()
    options = [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _parsed(base.__doc__ or "")[1]
    names = [*(name for name in own if name not in options), *(name for name in options if name in found)]
    if not names:
        return text
    return "\n".join([*before, HEADING, *dict.fromkeys(found[name] for name in names), *after])


def _parsed(text: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Divides a docstring: the lines before `HEADING`, the description of each argument, and the lines after them."""
    lines = inspect.cleandoc(text).splitlines()
    if HEADING not in lines:
        return [*lines, ""], {}, []
    start = lines.index(HEADING)
    end = next((at for at in range(start + 1, len(lines)) if lines[at][:1].strip()), len(lines))
    found: dict[str, str] = {}
    names: list[str] = []
    for line in filter(None, lines[start + 1 : end]):
        if begin := _NAMES.match(line):
            names = begin[1].split(", ")
            found |= dict.fromkeys(names, line)
        else:
            found |= {name: f"{found[name]}\n{line}" for name in names}
    return lines[:start], found, ["", *lines[end:]] if end < len(lines) else []
