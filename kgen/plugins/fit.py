"""Checks that a registered object fits its kind: a base class, a protocol, or the arguments of a function."""

from __future__ import annotations

import inspect
from typing import Any


def misfit(target: Any, contract: Any, name: str) -> str:
    """Says why a target does not fit a kind; "" if it does.

    Args:
        target: A class, which is constructed with options, or any other object, which is used as it is.
        contract: A class, of which targets must be subclasses or instances; a protocol, whose members they must have;
            or a function, whose arguments they must accept.
        name: The name of the contract, for the message.
    """
    from typing_extensions import get_protocol_members, is_protocol  # here, because `kgen --help` needs neither

    if is_protocol(contract):
        members = sorted(get_protocol_members(contract))
        if missing := [member for member in members if not _has(target, member)]:
            return f"lacks {', '.join(missing)}, which {name} requires"
        problems = (_arguments(_member(target, member), vars(contract).get(member), member) for member in members)
        return next(filter(None, problems), "")
    if isinstance(contract, type):
        fits = issubclass(target, contract) if isinstance(target, type) else isinstance(target, contract)
        return "" if fits else f"is not a subclass of {name}"
    if not _has(target, "__call__"):
        return f"cannot be called, which {name} requires"
    return _arguments(_member(target, "__call__"), contract, "it")


def wrong_arguments(cls: type[Any], supplied: str) -> str:
    """Returns what is wrong with the constructor of a subclass of a Keras class, or "" if it is valid.

    Args:
        cls: The subclass.
        supplied: The only argument that may stand before the ``*``. All other arguments are options.
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
    """Whether an object, or the instances of a class, have a member. A constructor may set an annotated member."""
    if not isinstance(target, type):
        return hasattr(target, member)
    bases = target.__mro__
    return any(member in vars(base) or member in vars(base).get("__annotations__", {}) for base in bases)


def _member(target: Any, member: str) -> Any:
    """The member of an object, or the unbound member of a class, which takes `self` first."""
    if not isinstance(target, type):
        return target if member == "__call__" else getattr(target, member)
    return next((vars(base)[member] for base in target.__mro__ if member in vars(base)), None)


def _arguments(function: Any, wanted: Any, name: str) -> str:
    """Says why `function` cannot be called with the arguments of `wanted`; "" if it can, or if it cannot be checked."""
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
