"""Distinguishes the arguments that kgen supplies from options, and refuses classes where this is ambiguous."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kgen.options.signature import options, supplied


@dataclass(frozen=True)
class Arguments:
    """The arguments that kgen supplies to a method of a contract.

    Args:
        supplied: Arguments that kgen may supply, in this order, before the ``*``. A subclass omits those that it does
            not need.
        reserved: Names that no option can have, because they mean something else in the place where options are given.
    """

    supplied: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()


def problems(cls: type[Any], contract: Mapping[str, Arguments]) -> Iterator[str]:
    """Yields the errors in the signatures of a class's constructor and methods, one sentence each.

    Args:
        cls: The class.
        contract: The arguments of each method, by its name, including ``__init__``.
    """
    for method, arguments in contract.items():
        function = getattr(cls, method)
        if method not in vars(cls) or any(p.kind == p.VAR_POSITIONAL for p in _parameters(function)):
            continue  # an inherited method, which was checked in its class; or the method of the contract itself
        yield from _of_method(method, arguments, supplied(function), tuple(options(function)))
        if method == "__init__":
            yield from _hidden(cls, tuple(options(function)))


def _of_method(method: str, arguments: Arguments, positional: tuple[str, ...], named: tuple[str, ...]) -> Iterator[str]:
    known = arguments.supplied
    for name in positional:
        if name not in known:
            yield (
                f"{method}: '{name}' is not an argument that kgen supplies ({', '.join(known) or 'there is none'}), "
                f"and an option must come after a '*'"
            )
    ordered = [name for name in positional if name in known]
    if ordered != sorted(ordered, key=known.index):
        yield f"{method}: the arguments that kgen supplies must have this order: {', '.join(known)}"
    for name in named:
        if name in known:
            yield f"{method}: '{name}' comes after the '*', but kgen supplies it: put it before the '*'"
        elif name in arguments.reserved:
            yield f"{method}: no option can be named '{name}', which means something else where options are given"


def _hidden(cls: type[Any], named: tuple[str, ...]) -> Iterator[str]:
    """Yields errors for options that cannot be stored under their names, because a base class has such a method."""
    for name in named:
        for base in cls.__mro__[1:]:
            attribute = vars(base).get(name)
            read_only = isinstance(attribute, property) and attribute.fset is None
            if read_only or inspect.isroutine(attribute):
                yield f"__init__: no option can be named '{name}': {base.__name__}.{name} already exists"
                break


def _parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())
