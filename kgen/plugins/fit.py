"""Whether what a plugin registers is what the kind asks for: a base class, a protocol, or a function's arguments."""

from __future__ import annotations

import inspect
from typing import Any

from typing_extensions import get_protocol_members, is_protocol


def misfit(target: Any, contract: Any, name: str) -> str:
    """Why a target is none of a kind; "" where it is one.

    Args:
        target: A class, which is made with options, or any other object, which is used as it is.
        contract: A class: targets are subclasses, or objects, of it. A protocol: they have its members. A function:
            they take its arguments.
        name: Of the contract, for the message.
    """
    if is_protocol(contract):
        members = sorted(get_protocol_members(contract))
        if missing := [member for member in members if not _has(target, member)]:
            return f"lacks {', '.join(missing)}, which {name} asks for"
        problems = (_arguments(_member(target, member), vars(contract).get(member), member) for member in members)
        return next(filter(None, problems), "")
    if isinstance(contract, type):
        fits = issubclass(target, contract) if isinstance(target, type) else isinstance(target, contract)
        return "" if fits else f"is no subclass of {name}"
    if not _has(target, "__call__"):
        return f"cannot be called, as {name} asks for"
    return _arguments(_member(target, "__call__"), contract, "it")


def wrong_arguments(cls: type[Any], supplied: str) -> str:
    """What is wrong with the constructor of a class of Keras's; "" where it is in order.

    Args:
        supplied: The one argument that kgen may supply, before the ``*``; all others are options, after it.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    first = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if others := [name for name in first if name != supplied]:
        return (
            f"has an argument '{others[0]}' before the '*', where kgen supplies '{supplied}' alone: options stand "
            f"after a '*', as in __init__(self, {supplied}, *, {others[0]}=...)"
        )
    for name in ("name", supplied):
        if any(p.name == name and p.kind == p.KEYWORD_ONLY for p in parameters):
            reason = "kgen supplies it: put it before the '*'" if name == supplied else "its own name stands there"
            return f"can have no option named '{name}': {reason}"
    return ""


def _has(target: Any, member: str) -> bool:
    """Whether an object, or the objects of a class, have a member; one of a class may be set when it is made."""
    if not isinstance(target, type):
        return hasattr(target, member)
    bases = target.__mro__
    return any(member in vars(base) or member in vars(base).get("__annotations__", {}) for base in bases)


def _member(target: Any, member: str) -> Any:
    """The member of an object; of a class, what its objects have, which takes `self` first."""
    if not isinstance(target, type):
        return target if member == "__call__" else getattr(target, member)
    return next((vars(base)[member] for base in target.__mro__ if member in vars(base)), None)


def _arguments(function: Any, wanted: Any, name: str) -> str:
    """Why a function cannot be called with the arguments of another; "" where it can, or where one is no function."""
    if not (inspect.isfunction(wanted) and callable(function)):
        return ""
    names = [argument for argument in inspect.signature(wanted).parameters if argument != "self"]
    unbound = inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "self"
    try:
        inspect.signature(function).bind(*((None,) if unbound else ()), *names)
    except TypeError as error:
        return f"cannot be called as {name}({', '.join(names)}): {error}"
    except ValueError:  # a function that is not written in Python
        return ""
    return ""
