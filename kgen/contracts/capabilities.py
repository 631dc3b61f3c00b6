"""Capabilities of a method beyond its contract, such as guidance, and the options that control them.

A capability is declared by the type of the option that controls it. The name of the option has no effect::

    def generate(
        self, condition, null_condition, noise, source=None, *,
        steps: kgen.Steps = 20, guidance: kgen.Guidance = 1.0, strength: kgen.Strength = 0.6,
    ): ...

kgen finds options by these types, not by their names. A narrower range is ``Annotated[kgen.Steps, Field(le=1000)]``.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from kgen.options import Static, options

NO_GUIDANCE = 1.0
"""The weight at which classifier-free guidance has no effect."""


class Capability(Enum):
    """The capabilities that options control. The value is the usual name of such an option."""

    GUIDANCE = "guidance"
    STEPS = "steps"
    STRENGTH = "strength"
    SAMPLES = "samples"


Guidance = Annotated[float, Field(ge=0), Static(NO_GUIDANCE), Capability.GUIDANCE]
"""The weight of classifier-free guidance (Ho and Salimans 2022), which needs the `null_condition`; 1: no guidance."""

Steps = Annotated[PositiveInt, Capability.STEPS]
"""Number of consecutive sampling steps."""

Strength = Annotated[float, Field(gt=0, le=1), Capability.STRENGTH]
"""How much the `source` image changes, from 0 to 1, where 1 replaces it completely."""

Samples = Annotated[PositiveInt, Capability.SAMPLES]
"""Number of random samples over which an estimate is averaged."""


def option_of(method: Callable[..., Any], capability: Capability) -> str | None:
    """The name of the option of a method that controls a capability; None if the method does not have it."""
    found = (name for name, parameter in options(method).items() if capability in _marks(parameter.annotation))
    return next(found, None)


def value_of(method: Callable[..., Any], capability: Capability, given: Mapping[str, Any]) -> Any:
    """The value of that option, given options of the method; None if the method does not have the capability."""
    name = option_of(method, capability)
    return None if name is None else given.get(name, options(method)[name].default)


def sampling_steps(method: Callable[..., Any], given: Mapping[str, Any]) -> int:
    """The number of consecutive steps of a method with the given options; 1 if it has no such option."""
    steps = value_of(method, Capability.STEPS, given)
    return steps if isinstance(steps, int) else 1


def guides(method: Callable[..., Any], given: Mapping[str, Any]) -> bool:
    """Whether a method uses guidance with the given options, so that it needs the empty text's condition."""
    return value_of(method, Capability.GUIDANCE, given) not in (None, NO_GUIDANCE)


def _marks(annotation: Any) -> Iterator[Any]:
    """Yields the metadata of an annotated type, also inside of a union with None."""
    if typing.get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        yield from _marks(annotation.__origin__)
    else:
        for part in typing.get_args(annotation):
            yield from _marks(part)
