"""Capabilities of a method beyond its contract, such as guidance, and the options that control them.

A capability is declared by the type of the option that controls it. The name of the option has no effect::

    def generate(
        self, condition, null_condition, noise, source=None, *,
        steps: kgen.Steps = 20, guidance: kgen.Guidance = 1.0, strength: kgen.Strength = 0.6,
    ): ...

kgen finds options by these types, not by their names. A narrower range is ``Annotated[kgen.Steps, Field(le=1000)]``.
"""

from __future__ import annotations

import json
import operator
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_core import PydanticCustomError, core_schema

from kgen.options import Static, options
from kgen.options.validation import show

if TYPE_CHECKING:
    from kgen.contracts.encoder import Condition
    from kgen.contracts.generator import Generator

NO_GUIDANCE = 1.0
"""The weight at which classifier-free guidance has no effect."""


class Capability(Enum):
    """The capabilities that options control. The value is the usual name of such an option."""

    GUIDANCE = "guidance"
    STEPS = "steps"
    STRENGTH = "strength"
    SAMPLES = "samples"
    GUIDE = "guide"


Guidance = Annotated[float, Field(ge=0), Static(NO_GUIDANCE), Capability.GUIDANCE]
"""The weight of classifier-free guidance (Ho and Salimans 2022), which needs the `null_condition`; 1: no guidance."""

Steps = Annotated[PositiveInt, Capability.STEPS]
"""Number of consecutive sampling steps."""

Strength = Annotated[float, Field(gt=0, le=1), Capability.STRENGTH]
"""How much the `source` image changes, from 0 to 1, where 1 replaces it completely."""

Samples = Annotated[PositiveInt, Capability.SAMPLES]
"""Number of random samples over which an estimate is averaged."""


class GuideSource(pydantic.BaseModel):
    """The source of the model that guides another one.

    Args:
        source: A run directory, or a folder that `kgen.save` wrote. In run files, its name is "from".
        step: The step of a checkpoint that the run has kept; None: the final weights.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(min_length=1)] = Field(alias="from")
    step: NonNegativeInt | None = None


@dataclass(frozen=True)
class GuideModel:
    """Another trained model that guides the sampling, as `generate` receives it.

    In a run file, the option is the path of a run, or a mapping ``{from: RUN, step: 2000}``; in Python, it can also be
    a `Path` or a pipeline. kgen loads the model, and passes its weights to the compiled program.

    Args:
        generator: Its generator, which has passed `Generator.check_guide`.
        condition: What its own encoder computes for the same prompts.
    """

    generator: Generator
    condition: Condition

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._validate)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1}, GuideSource.model_json_schema()]}

    @staticmethod
    def _validate(given: Any) -> dict[str, Any]:
        """Turns what users give into a mapping with `from` and `step`."""
        given = os.fspath(given) if isinstance(given, os.PathLike) else given
        if not isinstance(given, str | Mapping):
            message = "must be the path of a run, or a mapping with 'from', got {value}"
            raise PydanticCustomError("guide", message, {"value": show(given)})
        mapping = {"from": given} if isinstance(given, str) else given
        text = json.dumps(mapping, default=_as_plain)
        return GuideSource.model_validate_json(text, strict=True).model_dump(by_alias=True)


def _as_plain(value: Any) -> str | int:
    """A `Path`, or a number of numpy, for JSON."""
    return str(os.fspath(value)) if isinstance(value, os.PathLike) else operator.index(value)


Guide = Annotated[GuideModel | None, Capability.GUIDE]
"""A weaker model from which guidance leads away (Karras et al. 2024, autoguidance)."""


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


def limit_passes(method: Callable[..., Any], given: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Options of a method with at most `most` network passes in those that count them: steps and samples."""
    limited = dict(given)
    for capability in (Capability.STEPS, Capability.SAMPLES):
        name, value = option_of(method, capability), value_of(method, capability, given)
        if name is not None and isinstance(value, int) and value > most:
            limited[name] = most
    return limited


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
