"""What a method may be able to do beside its contract, and which of its options says how much of it.

A capability is declared in one place: by the type of the option that carries it, whatever the option is called ::

    def generate(
        self, condition, null_condition, noise, source=None, *,
        steps: kgen.Steps = 20, guidance: kgen.Guidance = 1.0, strength: kgen.Strength = 0.6,
    ): ...

kgen asks here, and knows no option by its name. A narrower range is written ``Annotated[kgen.Steps, Field(le=1000)]``.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from kgen.options import Static, options

NO_GUIDANCE = 1.0
"""The weight with which classifier-free guidance changes nothing."""


class Capability(Enum):
    """What the option of a method can carry; the value is the name that such options usually have."""

    GUIDANCE = "guidance"
    STEPS = "steps"
    STRENGTH = "strength"
    SAMPLES = "samples"


Guidance = Annotated[float, Field(ge=0), Static(NO_GUIDANCE), Capability.GUIDANCE]
"""The weight of classifier-free guidance (Ho and Salimans 2022); 1 is none. It needs the `null_condition`."""

Steps = Annotated[PositiveInt, Capability.STEPS]
"""How many steps a sample takes, one after the other."""

Strength = Annotated[float, Field(gt=0, le=1), Capability.STRENGTH]
"""How much of the `source` image is changed: 1 is all of it."""

Samples = Annotated[PositiveInt, Capability.SAMPLES]
"""How many random samples an estimate is averaged over."""


def option_of(method: Callable[..., Any], capability: Capability) -> str | None:
    """The name of the option of a method that carries a capability; None where the method does not have it."""
    found = (name for name, parameter in options(method).items() if capability in _marks(parameter.annotation))
    return next(found, None)


def value_of(method: Callable[..., Any], capability: Capability, given: Mapping[str, Any]) -> Any:
    """The value of that option, given some options of the method; None where the method does not have it."""
    name = option_of(method, capability)
    return None if name is None else given.get(name, options(method)[name].default)


def sampling_steps(method: Callable[..., Any], given: Mapping[str, Any]) -> int:
    """How many steps, one after the other, a method takes with the given options: one where it does not say."""
    steps = value_of(method, Capability.STEPS, given)
    return steps if isinstance(steps, int) else 1


def guides(method: Callable[..., Any], given: Mapping[str, Any]) -> bool:
    """Whether a method guides its samples with the given options, and so compares with the empty text."""
    return value_of(method, Capability.GUIDANCE, given) not in (None, NO_GUIDANCE)


def _marks(annotation: Any) -> Iterator[Any]:
    """What an option's type is annotated with, also inside of a union with None."""
    if typing.get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        yield from _marks(annotation.__origin__)
    else:
        for part in typing.get_args(annotation):
            yield from _marks(part)
