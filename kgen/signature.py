"""A component's signature is its configuration: validation, help and schema are all read from it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pydantic

WIRED = {
    *("self", "space", "condition_space", "image_space"),
    *("x", "condition", "null_condition", "noise", "source", "region", "latent"),
}
"""Arguments that kgen supplies: they are no options."""


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
    """A pydantic model of the options: unknown keys are refused, types and ranges are checked."""
    fields: dict[str, Any] = {
        name: (p.annotation, ... if p.default is p.empty else p.default) for name, p in options(function).items()
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return pydantic.create_model(title, __config__=config, **fields)


def plain(value: Any) -> Any:
    """Options as YAML and JSON can hold them: dataclasses become mappings, tuples lists."""
    return pydantic.TypeAdapter(Any).dump_python(value, mode="json")


class Configurable:
    """Gives a component `config`: its options as plain data, read from the attributes of the same names."""

    @property
    def config(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in options(type(self))}
