"""Applies KEY=VALUE from the command line to a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kgen.config.source import MAX_DEPTH, Origin, Source, parse_value
from kgen.errors import ConfigError

AFTER_FILE = 10**9
"""The order of overrides among problems: after all lines of the file."""


def apply_overrides(source: Source, overrides: Sequence[str], bare: Mapping[str, str | None]) -> None:
    """Sets the keys that `overrides` name, in order, and reports those that cannot be set.

    Args:
        source: The configuration, which is changed, and which receives the problems.
        overrides: Texts such as "fit.steps=10"; the value is a YAML scalar, list or mapping.
        bare: The keys whose value may be only the name of a component, with the default name of each. For these keys,
            "encoder.dim=64" keeps the name and sets one option, and "encoder=none" replaces the whole component.
    """
    for number, text in enumerate(overrides):
        origin = Origin(AFTER_FILE + number, f"--set {text if len(text) <= 100 else text[:97] + '...'}")
        key, equals, value = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            source.problems.append((origin, "must read KEY=VALUE, such as fit.steps=100"))
            continue
        if len(path) > MAX_DEPTH:
            source.problems.append((origin, f"has a key of more than {MAX_DEPTH} parts"))
            continue
        head = path[0]
        if len(path) > 1 and head in bare and not isinstance(source.data.get(head), dict):
            name = source.data.get(head) or bare[head]
            source.data[head] = {} if name is None else {"name": name}
        try:
            source.put(path, parse_value(value), origin)
        except (ValueError, ConfigError) as error:
            source.problems.append((origin, str(error)))
