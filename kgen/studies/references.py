"""References in the settings of a study: to runs, and to variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kgen.config.overrides import Setting
from kgen.options.validation import KeyPath

REFERENCE = re.compile(r"\{runs\}/([^/\s]+)")
"""How a setting refers to a run that the study names under `runs`: "{runs}/NAME"."""

OWN_RUN = re.compile(r"\{run\}")
"""How a sampling option refers to the run of its own trial, such as to an earlier checkpoint of it."""

VARIABLE = re.compile(r"\{(?!runs?\})([^{}/\s]+)\}")
"""How a named value refers to a variable: "{NAME}"."""


def with_variables(value: Any, variables: Mapping[str, Any]) -> Any:
    """Returns plain data in which each text "{NAME}" is replaced by the value of that variable."""
    if isinstance(value, str):
        return next((own for name, own in variables.items() if value == f"{{{name}}}"), value)
    if isinstance(value, dict):
        return {key: with_variables(item, variables) for key, item in value.items()}
    return [with_variables(item, variables) for item in value] if isinstance(value, list) else value


def find_references(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yields the references in plain data: pairs of a path and the name of a run."""
    yield from ((place, name) for place, text in find_texts(value, path) for name in REFERENCE.findall(text))


def find_texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yields the texts in plain data, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_texts(item, (*path, key))


def resolved(value: Any, reference: re.Pattern[str], path: Callable[[re.Match[str]], str]) -> Any:
    """Returns plain data in which the references that a pattern finds are replaced by paths."""
    if isinstance(value, str):
        return reference.sub(path, value)
    if isinstance(value, dict):
        return {key: resolved(item, reference, path) for key, item in value.items()}
    return [resolved(item, reference, path) for item in value] if isinstance(value, list) else value


def references(settings: Sequence[Setting]) -> set[str]:
    """The names of the runs to which settings refer."""
    return {name for setting in settings for _, name in find_references(setting.value, ())}


def refers_to_own_run(value: Any) -> bool:
    """Whether plain data refer to the run of their own trial."""
    return any(OWN_RUN.search(text) for _, text in find_texts(value, ()))
