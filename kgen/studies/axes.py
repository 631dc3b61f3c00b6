"""The axes of a sweep, and their values."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgen.config.changes import affects_training
from kgen.config.overrides import Setting
from kgen.config.source import Origin, parse_value
from kgen.errors import ConfigError

SEED = "seed"
"""The key of a run file whose axis repeats the training. Tables and plots show the mean over its values."""

MAX_SLUG = 40
MAX_NAME = 90
"""Largest number of characters of a value in a file name, and of a whole file name."""


@dataclass(frozen=True)
class Value:
    """A value of an axis.

    Args:
        label: The text in tables and plots.
        settings: The keys that it sets.
        plain: The value as plain data; None for a set of settings.
    """

    label: str
    settings: tuple[Setting, ...]
    plain: Any = None

    @property
    def number(self) -> float | None:
        """The value itself, if it is a number."""
        return self.plain if isinstance(self.plain, int | float) and not isinstance(self.plain, bool) else None


@dataclass(frozen=True)
class Axis:
    """What differs between the trials of a sweep.

    Args:
        name: A key of the run file, such as "sample.options.guidance", or a name that the study gives.
        values: The values, with different labels.
        named: Whether the study names the values, each of which is a set of settings.
        used_by: The keys whose values contain "{NAME}", if this axis is a variable. A variable sets no key; the
            settings of named values refer to it.
    """

    name: str
    values: tuple[Value, ...]
    named: bool = False
    used_by: tuple[str, ...] = ()

    @property
    def repeats(self) -> bool:
        """Whether this is the axis over which the table shows the mean."""
        return self.name == SEED and not self.named

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(value.number is not None for value in self.values)

    @property
    def affects_training(self) -> bool:
        """Whether trained weights depend on the value."""
        keys = self.used_by or [setting.key for value in self.values for setting in value.settings]
        return any(map(affects_training, keys))

    def variables(self, value: Value) -> dict[str, Any]:
        """The variable that a value of this axis sets, by its name; {} if the axis is not a variable."""
        return {self.name: value.plain} if self.used_by else {}


def key_axis(key: str, values: Sequence[tuple[Any, Origin]]) -> Axis:
    """Makes an axis over values of one key.

    Args:
        key: The key, in full.
        values: Pairs of a value and its place in the study.
    """
    return Axis(key, tuple(_value(key, value, origin) for value, origin in values))


def variable_axis(name: str, values: Sequence[Any], used_by: Sequence[str]) -> Axis:
    """Makes an axis over values of a variable.

    Args:
        name: The name of the variable.
        values: The values, as plain data.
        used_by: The keys whose values refer to the variable.
    """
    return Axis(name, tuple(Value(text_of(value), (), value) for value in values), used_by=tuple(used_by))


def _value(key: str, value: Any, origin: Origin) -> Value:
    return Value(text_of(value), (Setting(key, value, origin),), value)


def text_of(value: Any) -> str:
    """A plain value as text. A text stays as it is; other values are written as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse_over(text: str) -> tuple[str, list[Any]]:
    """Parses KEY=VALUE,VALUE,...: each value is a YAML scalar, or a list or mapping in flow style.

    Raises:
        ConfigError: the text has another form, or no value.
    """
    shown = f"--over {text if len(text) <= 100 else text[:97] + '...'}"
    key, equals, values = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"{shown}: must read KEY=VALUE,VALUE,... such as fit.learning_rate=1e-3,1e-4")
    try:
        found = parse_value(f"[{values}]")
    except ConfigError as error:
        raise ConfigError(f"{shown}: the values are not valid YAML, with commas between them ({error})") from error
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{shown}: needs at least one value, such as fit.learning_rate=1e-3,1e-4")
    return key.strip(), found


def overwritten(axes: Sequence[Axis]) -> Iterator[tuple[Setting, Axis]]:
    """Yields pairs of a setting that a later axis overwrites completely, and that axis."""
    for number, axis in enumerate(axes):
        keys = {setting.key for value in axis.values for setting in value.settings}
        for earlier in axes[:number]:
            for setting in (setting for value in earlier.values for setting in value.settings):
                if any(f"{setting.key}.".startswith(f"{key}.") for key in keys):
                    yield setting, axis


def short_names(axes: Sequence[Axis]) -> dict[str, str]:
    """A short name for each axis, by its name: the last part of its key, unless another axis has the same last part."""
    last = {axis.name: axis.name if axis.named else axis.name.rpartition(".")[2] for axis in axes}
    count = Counter(last.values())
    return {name: short if count[short] == 1 else name for name, short in last.items()}


def find_axis(axes: Sequence[Axis], name: str) -> Axis | None:
    """The axis with a name, or with a short name; None if there is no such axis."""
    short = short_names(axes)
    return next((axis for axis in axes if name in (axis.name, short[axis.name])), None)


def file_names(axes: Sequence[Axis]) -> dict[tuple[str, str], str]:
    """The part of a file name for each value, by the name of the axis and the label: "width-64".

    The parts of one axis are different, even if upper and lower case are not distinguished.
    """
    short, found = short_names(axes), {}
    for axis in axes:
        texts = {value.label: slug(value.label) for value in axis.values}
        count = Counter(text.casefold() for text in texts.values())
        for label, text in texts.items():
            unique = text if text and count[text.casefold()] == 1 else f"{text}-{_digest(label)}".lstrip("-")
            found[axis.name, label] = f"{slug(short[axis.name])}-{unique}"
    return found


def file_name(parts: Sequence[str]) -> str:
    """Joins parts to a file name of at most `MAX_NAME` characters."""
    name = "_".join(parts)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}-{_digest(name)}"


def slug(text: str) -> str:
    """Turns a text into a part of a file name, which keeps the sign of a number."""
    words = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")[:MAX_SLUG].rstrip("-.")
    return f"-{words}" if words and text.startswith("-") else words


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plain_axes(axes: Sequence[Axis]) -> dict[str, Any]:
    """The axes as they are written under `over` in a study file."""
    return {axis.name: _named(axis) if axis.named else [value.plain for value in axis.values] for axis in axes}


def _named(axis: Axis) -> dict[str, Mapping[str, Any]]:
    return {value.label: {setting.key: setting.value for setting in value.settings} for value in axis.values}
