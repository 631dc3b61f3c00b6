"""Tells what kgen supplies from what the user configures, and refuses a class where that is not clear."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kgen.options.signature import options, supplied


@dataclass(frozen=True)
class Arguments:
    """Which arguments of one method of a contract are kgen's own.

    Args:
        supplied: What kgen may supply, in this order, before the ``*``; a subclass leaves out what it does not need.
        reserved: Names that no option can have, because a user could not give it: they mean something else there.
    """

    supplied: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()


def problems(cls: type[Any], contract: Mapping[str, Arguments]) -> Iterator[str]:
    """What is wrong with the arguments of a class's constructor and methods, a sentence each.

    Args:
        contract: By the name of the method, ``__init__`` included.
    """
    for method, arguments in contract.items():
        function = getattr(cls, method)
        if method not in vars(cls) or any(p.kind == p.VAR_POSITIONAL for p in _parameters(function)):
            continue  # checked with the class that it is of; or the contract's own method, which stands for any
        yield from _of_method(method, arguments, supplied(function), tuple(options(function)))
        if method == "__init__":
            yield from _hidden(cls, tuple(options(function)))


def _of_method(method: str, arguments: Arguments, positional: tuple[str, ...], named: tuple[str, ...]) -> Iterator[str]:
    known = arguments.supplied
    for name in positional:
        if name not in known:
            yield (
                f"{method}: '{name}' is no argument that kgen supplies ({', '.join(known) or 'there is none'}), and an "
                f"option must stand after a '*'"
            )
    ordered = [name for name in positional if name in known]
    if ordered != sorted(ordered, key=known.index):
        yield f"{method}: the arguments that kgen supplies must stand in this order: {', '.join(known)}"
    for name in named:
        if name in known:
            yield f"{method}: '{name}' stands after the '*', but kgen supplies it: put it before the '*'"
        elif name in arguments.reserved:
            yield f"{method}: no option can be named '{name}', which means something else where options are given"


def _hidden(cls: type[Any], named: tuple[str, ...]) -> Iterator[str]:
    """Options that could not be stored under their own names, because a base class has a method there."""
    for name in named:
        for base in cls.__mro__[1:]:
            attribute = vars(base).get(name)
            read_only = isinstance(attribute, property) and attribute.fset is None
            if read_only or inspect.isroutine(attribute):
                yield f"__init__: no option can be named '{name}': {base.__name__}.{name} is there already"
                break


def _parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())
