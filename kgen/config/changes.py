"""Determines which keys may change in the configuration of a run that has begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kgen.config.components import TRAINED

WITHOUT_EFFECT_ON_TRAINING = (
    *("name", "sample", "evaluate", "loggers"),
    *(f"{part}fit.{key}" for part in TRAINED for key in ("workers", "log_every", "checkpoint_every", "keep", "remat")),
    *(
        f"{part}fit.{key}"
        for part in TRAINED
        for key in ("validate_every", "ema.every", "ema.keep", "steps_per_execution")
    ),
    *(f"{part}data.on_error" for part in TRAINED),  # if it changes which images are used, the fingerprint changes too
)
"""Keys of a run file that may change at any time; a section includes all of its keys."""

STEPS = "fit.steps"
"""The key whose value may increase; the training then continues."""


@dataclass(frozen=True)
class Change:
    """A key with different values.

    Args:
        key: The key, with dots between its parts.
        before, now: The values in the older and in the newer mapping; None: the key is missing.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} there, {self.now!r} now"

    @property
    def affects_training(self) -> bool:
        """Whether the trained weights depend on the key."""
        return affects_training(self.key)

    @property
    def allowed(self) -> bool:
        """Whether a run that has begun may continue with this change."""
        return not self.affects_training or (self.key == STEPS and self.now > self.before)


def affects_training(key: str) -> bool:
    """Whether trained weights depend on a key of a run file, such as "fit.steps"."""
    parents = key.split(".")
    return not any(".".join(parents[:n]) in WITHOUT_EFFECT_ON_TRAINING for n in range(1, len(parents) + 1))


def training_part(data: Any, key: str = "") -> Any:
    """The configuration of a run (`RunConfig.dump`) without the keys that have no effect on the trained weights."""
    if not isinstance(data, dict):
        return data
    paths = {name: f"{key}.{name}" if key else str(name) for name in data}
    return {name: training_part(data[name], path) for name, path in paths.items() if affects_training(path)}


def changes(old: Any, new: Any, key: str = "") -> Iterator[Change]:
    """Yields the differences between two nested mappings."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from changes(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield Change(key, old, new)
