"""Applies changes to a configuration: KEY=VALUE from the command line, and the settings of a study."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgen.config.source import MAX_DEPTH, Origin, Source, parse_value
from kgen.errors import ConfigError

AFTER_FILE = 10**9
"""The order of overrides among problems: after all lines of the file."""


@dataclass(frozen=True)
class Setting:
    """A key of a configuration with a new value.

    Args:
        key: The key, with dots between its parts.
        value: Plain data.
        origin: The place where a user wrote it.
    """

    key: str
    value: Any
    origin: Origin


def apply_overrides(source: Source, overrides: Sequence[str], bare: Mapping[str, str | None]) -> None:
    """Sets the keys that `overrides` name, in order, and reports those that cannot be set.

    Args:
        source: The configuration, which is changed, and which receives the problems.
        overrides: Texts such as "fit.steps=10"; the value is a YAML scalar, list or mapping.
        bare: See `apply_setting`.
    """
    for setting in read_overrides(source, overrides):
        apply_setting(source, setting, bare)


def read_overrides(source: Source, overrides: Sequence[str]) -> list[Setting]:
    """Reads texts such as "fit.steps=10", in order. Reports those that cannot be read to `source`."""
    settings = []
    for number, text in enumerate(overrides):
        origin = Origin(AFTER_FILE + number, f"--set {text if len(text) <= 100 else text[:97] + '...'}")
        key, equals, value = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            source.problems.append((origin, "must read KEY=VALUE, such as fit.steps=100"))
            continue
        try:
            settings.append(Setting(key.strip(), parse_value(value), origin))
        except ConfigError as error:
            source.problems.append((origin, str(error)))
    return settings


def flattened(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys: {"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def apply_setting(source: Source, setting: Setting, bare: Mapping[str, str | None]) -> None:
    """Sets a key, or reports why it cannot be set.

    Args:
        source: The configuration, which is changed, and which receives the problems.
        setting: The key and its value.
        bare: The keys, with dots, whose value may be only the name of a component, with the default name of each. For
            these keys, "encoder.dim=64" keeps the name and sets one option, and "encoder=none" replaces the component.
    """
    path = tuple(setting.key.split("."))
    if len(path) > MAX_DEPTH:
        source.problems.append((setting.origin, f"has a key of more than {MAX_DEPTH} parts"))
        return
    for depth in range(1, len(path)):
        if ".".join(path[:depth]) in bare:
            _name_first(source.data, path[:depth], bare)
    try:
        source.put(path, copy.deepcopy(setting.value), setting.origin)
    except ValueError as error:
        source.problems.append((setting.origin, str(error)))


def _name_first(data: Any, path: tuple[str, ...], bare: Mapping[str, str | None]) -> None:
    """Converts a component that is given by its name, or is absent, to a mapping with `name`."""
    for key in path[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    if isinstance(data, dict) and not isinstance(data.get(path[-1]), dict):
        name = data.get(path[-1]) or bare[".".join(path)]
        data[path[-1]] = {} if name is None else {"name": name}
