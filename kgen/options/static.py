"""Options that are compiled into a program, and options that one program serves all values of."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from kgen.options.signature import options


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
