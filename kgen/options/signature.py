"""A component's signature is its configuration: validation, help and schema are derived from it.

Arguments that kgen supplies come first, by position. Options come after a ``*``, each with a type and a default::

    def __init__(self, space, condition_space, *, width: int = 64, **kwargs): ...
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pydantic

MAX_OPTION = 1_000_000
"""The largest integer option of a method or of a part of a pipeline: steps, samples, layers or features."""


def options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a constructor (given the class) or of a method such as `generate`, with annotations resolved.

    Options are the keyword-only arguments. For a dataclass, they are all arguments of its constructor.
    """
    if inspect.isclass(function) and dataclasses.is_dataclass(function):
        return _fields(function)
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind == parameter.KEYWORD_ONLY
    }


def _fields(cls: type[Any]) -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        default: Any = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.init:
            kind = inspect.Parameter.KEYWORD_ONLY
            found[field.name] = inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name])
    return found


def supplied(function: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments of a constructor (given the class) or method that kgen supplies: those before the ``*``."""
    target = function.__init__ if inspect.isclass(function) else function
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in inspect.signature(target).parameters.items() if p.kind in kinds)[1:]


def option_model(function: Callable[..., Any], title: str) -> type[pydantic.BaseModel]:
    """A pydantic model of the options, which refuses unknown keys and checks types and ranges.

    Integers may not exceed `Configurable.largest_option` of the class, or `MAX_OPTION` for a method.

    Raises:
        TypeError: an option has a name that no option can have, or no type.
        NameError, PydanticUserError: an annotation cannot be used.
    """
    return _made_once(function, title)


@functools.lru_cache(maxsize=512)
def _made_once(function: Callable[..., Any], title: str) -> type[pydantic.BaseModel]:
    for name, parameter in options(function).items():
        if name.startswith("_") or hasattr(pydantic.BaseModel, name):
            raise TypeError(f"'{name}' is a name that no option can have")
        if parameter.annotation is Any:
            raise TypeError(f"option '{name}' has no type: write one, as in {name}: int")
    bounded = pydantic.AfterValidator(_at_most(getattr(function, "largest_option", MAX_OPTION)))
    fields: dict[str, Any] = {
        name: (Annotated[p.annotation, bounded], ... if p.default is p.empty else p.default)
        for name, p in options(function).items()
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return pydantic.create_model(title, __config__=config, **fields)


def _at_most(largest: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if any(abs(number) > largest for number in _integers(value)):
            raise ValueError(f"must be at most {largest:,}")
        return value

    return check


def _integers(value: Any) -> Iterator[int]:
    """Yields all integers in an option."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _integers(vars(value))
