"""Separates options that are compiled into a program from numbers that are arguments of the program."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from kgen.options.signature import options


class Static:
    """Values of a float option that are compiled into the program, because they change the computation.

    An option of `generate`, `decode` or `log_likelihood` that is annotated as float is passed as a scalar tensor (a
    tuple of n floats as a tensor of shape (n,)), so that one program works for all of its values. If a value saves work
    (a `guidance` of 1 needs no second pass), declare it, as in ``guidance: Annotated[float, Static(1.0)] = 1.0``, and
    test for it with `is_static`.
    """

    def __init__(self, *values: float) -> None:
        self.values = values


def is_static(option: Any, value: float) -> bool:
    """Whether an option is this number. It is False for a tensor, which represents all values that are not `Static`."""
    return isinstance(option, int | float) and option == value


Numbers = dict[str, float | tuple[float, ...]]
"""Options that are arguments of a program, by name."""


def split_options(function: Callable[..., Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], Numbers]:
    """Divides all options of a method, including defaults, into static options and numbers.

    Numbers are the values of options annotated as ``float`` or as a tuple of floats, such as ``tuple[float, float]``,
    also in a union with None, except `Static` values and None.

    Returns:
        Static options by name, and numbers by name.
    """
    static: dict[str, Any] = {}
    numbers: Numbers = {}
    for name, parameter in options(function).items():
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            continue
        fixed = _static_values(parameter.annotation)
        if fixed is None or not _is_numeric(value) or value in fixed:
            static[name] = value
        else:
            numbers[name] = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    return static, numbers


def _is_numeric(value: Any) -> bool:
    return all(isinstance(item, int | float) for item in (value if isinstance(value, tuple) else (value,)))


def _static_values(annotation: Any) -> tuple[float, ...] | None:
    """The values of `Static` in the annotation of a float, or of a tuple of floats; None for any other annotation."""
    if annotation is float:
        return ()
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return () if parts and all(_static_values(part) is not None for part in parts) else None
    if origin is typing.Annotated:
        inner = _static_values(parts[0])
        own = tuple(value for extra in parts[1:] if isinstance(extra, Static) for value in extra.values)
        return None if inner is None else inner + own
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in parts if part is not type(None)]
        return _static_values(kinds[0]) if len(kinds) == 1 else None
    return None
