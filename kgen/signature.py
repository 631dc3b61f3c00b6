"""A component's signature is its configuration: validation, help and schema are all read from it."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import pydantic

WIRED = {
    *("self", "space", "condition_space", "image_space"),
    *("x", "condition", "null_condition", "noise", "source", "region", "latent"),
}
"""Arguments that kgen supplies: they are no options."""

LARGEST = 1_000_000
"""The largest number of steps, samples, layers or features that a method, or a part of a pipeline, may be asked for."""


def options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a constructor (given the class) or of a method such as `generate`, annotations resolved."""
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in WIRED and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def wires(cls: type[Any]) -> set[str]:
    """What a class takes from its neighbours in a pipeline: of `WIRED`, the names that its constructor has."""
    return WIRED & set(inspect.signature(cls.__init__).parameters)


def option_model(function: Callable[..., Any], title: str) -> type[pydantic.BaseModel]:
    """A pydantic model of the options: unknown keys are refused, types and ranges are checked.

    No whole number may be larger than the class allows (`Configurable.largest_option`), or `LARGEST` for a method.
    """
    bounded = pydantic.AfterValidator(_at_most(getattr(function, "largest_option", LARGEST)))
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
    """All whole numbers in an option."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _integers(vars(value))


class Static:
    """Values of a float option that are compiled into the program, because they change what has to be computed.

    An option of `generate`, `decode` or `log_likelihood` that is annotated as float comes as a scalar tensor, so that
    one program serves all of its values. Where a value saves work (a `guidance` of 1 needs no second pass), declare it,
    ``guidance: Annotated[float, Static(1.0)] = 1.0``, and ask with `is_static`.
    """

    def __init__(self, *values: float) -> None:
        self.values = values


def is_static(option: Any, value: float) -> bool:
    """Whether an option is this number; never true of a tensor, which stands for all values that are not `Static`."""
    return isinstance(option, int | float) and option == value


def split_options(function: Callable[..., Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Divides all options of a method, with its defaults, into those of a program's structure and plain numbers.

    Numbers are the values of options annotated as float, also where they can be None, but for `Static` ones.

    Returns:
        Static options by name, and numbers by name.
    """
    static: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    for name, parameter in options(function).items():
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            continue
        fixed = _static_values(parameter.annotation)
        if fixed is None or not isinstance(value, int | float) or value in fixed:
            static[name] = value
        else:
            numbers[name] = float(value)
    return static, numbers


def _static_values(annotation: Any) -> tuple[float, ...] | None:
    """The values of `Static` in the annotation of a float; None where it is no float."""
    if annotation is float:
        return ()
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = _static_values(parts[0])
        own = tuple(value for extra in parts[1:] if isinstance(extra, Static) for value in extra.values)
        return None if inner is None else inner + own
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in parts if part is not type(None)]
        return _static_values(kinds[0]) if len(kinds) == 1 else None
    return None


def plain(value: Any) -> Any:
    """Options as YAML and JSON can hold them: dataclasses become mappings, tuples lists."""
    return pydantic.TypeAdapter(Any).dump_python(value, mode="json")


class Configurable:
    """Gives a component `config`: its options as plain data, read from the attributes of the same names.

    Attributes:
        largest_option: The largest whole number that an option may be; a seed needs 2^31 - 1.
    """

    largest_option: ClassVar[int] = 2**31 - 1

    @property
    def config(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in options(type(self))}
