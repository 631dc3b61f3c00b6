"""Reads a configuration file of another library key by key, so that no key is ignored by accident."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from kgen.errors import ConfigError

REQUIRED: Any = object()
"""Stands for the default of a key that has none."""

MAX_NAMED = 3
"""Number of keys that a message names."""


class Section:
    """A mapping in a JSON file. Each method reads a key; `finish` refuses the keys that were not read.

    Args:
        file: The file, for messages.
        data: The mapping.
        place: The keys that lead to the mapping, such as "text_config.".

    Raises:
        ConfigError: here and in all methods, for a wrong value. The message names the file and the key.
    """

    def __init__(self, file: Path, data: Any, place: str = "") -> None:
        self.file = file
        self.place = place
        if not isinstance(data, dict):
            self.refuse(None, f"must be a mapping, not {data!r:.80}")
        self.data: dict[str, Any] = data
        self._read: set[str] = set()

    @classmethod
    def of_file(cls, file: Path) -> Section:
        """Opens a file. Raises ConfigError if it is missing or damaged."""
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file} is missing: download it, too") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from error
        return cls(file, data)

    def refuse(self, key: str | None, problem: str) -> NoReturn:
        """Raises ConfigError about a key; None: about the whole section."""
        name = f"'{self.place}{key}'" if key else f"'{self.place.rstrip('.')}'" if self.place else "the file"
        raise ConfigError(f"{self.file}: {name} {problem}")

    def value(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key, of any type."""
        self._read.add(key)
        found = self.data.get(key, default)
        if found is REQUIRED:
            self.refuse(key, "is missing")
        return found

    def whole(self, key: str, default: Any = REQUIRED) -> int:
        """A positive integer."""
        found = self.value(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            self.refuse(key, f"must be a positive integer, not {found!r:.80}")
        return int(found)

    def wholes(self, key: str, default: Any = REQUIRED) -> tuple[int, ...]:
        """One or more positive integers."""
        found = self.value(key, default)
        items = list(found) if isinstance(found, list | tuple) else []
        if not items or not all(type(item) is int and item > 0 for item in items):
            self.refuse(key, f"must be a list of positive integers, not {found!r:.80}")
        return tuple(items)

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A positive number."""
        found = self.value(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
            self.refuse(key, f"must be a positive number, not {found!r:.80}")
        return float(found)

    def real(self, key: str, default: Any = REQUIRED) -> float:
        """A finite number."""
        found = self.value(key, default)
        if not _is_real(found):
            self.refuse(key, f"must be a number, not {found!r:.80}")
        return float(found)

    def reals(self, key: str, count: int, default: Any = REQUIRED) -> tuple[float, ...]:
        """`count` finite numbers."""
        found = self.value(key, default)
        numbers = list(found) if isinstance(found, list | tuple) else []
        if len(numbers) != count or not all(map(_is_real, numbers)):
            self.refuse(key, f"must be {count} numbers, not {found!r:.80}")
        return tuple(map(float, numbers))

    def colors(self, key: str, default: Any = REQUIRED) -> tuple[float, float, float]:
        """Three numbers from 0 to 1."""
        found = self.value(key, default)
        numbers = list(found) if isinstance(found, list | tuple) else []
        if len(numbers) != 3 or not all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers):
            self.refuse(key, f"must be three numbers from 0 to 1, not {found!r:.80}")
        return float(numbers[0]), float(numbers[1]), float(numbers[2])

    def side(self, key: str, names: tuple[str, ...], default: Any = REQUIRED) -> int:
        """The side of a square: an integer, two equal ones, or a mapping with `names`, whose values are equal."""
        found = self.value(key, default)
        if isinstance(found, dict) and set(found) == set(names):
            sides = set(found.values())
        else:
            sides = set(found) if isinstance(found, list | tuple) else {found} if isinstance(found, int) else set()
        if len(sides) != 1 or isinstance(side := sides.pop(), bool) or not isinstance(side, int) or side < 1:
            self.refuse(key, f"must be one positive integer ({' and '.join(names)}), not {found!r:.80}")
        return side

    def one_of(self, key: str, allowed: dict[Any, Any], default: Any = REQUIRED) -> Any:
        """The meaning of a value: `allowed` maps the known values to their meanings."""
        found = self.value(key, default)
        for known, meaning in allowed.items():
            if type(found) is type(known) and found == known:
                return meaning
        return self.refuse(key, f"must be {' or '.join(map(repr, allowed))}, not {found!r:.80}")

    def section(self, key: str) -> Section:
        """The mapping of a key."""
        return Section(self.file, self.value(key), f"{self.place}{key}.")

    def ignore(self, *keys: str) -> None:
        """Marks keys as read that do not change what the model computes."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raises ConfigError if a key was not read."""
        if odd := sorted(set(self.data) - self._read):
            names = ", ".join(f"'{self.place}{key}'" for key in odd[:MAX_NAMED])
            raise ConfigError(f"{self.file}: {names}: unknown; kgen's model may compute something else")


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
