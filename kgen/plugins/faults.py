"""Names the component, and its distribution, that an unexpected exception comes from."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kgen.errors import FULL, ComponentError, KgenError, PluginError

if TYPE_CHECKING:
    from kgen.plugins.registry import Component

BOLD = re.compile(r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)
"""The markup that Keras puts around the message of an exception in a layer."""

FRAMEWORKS = tuple(f"site-packages{os.sep}{name}{os.sep}" for name in ("keras", "tensorflow", "jax", "torch"))
"""Parts of the paths of files that belong to Keras and its backends."""

OF_THE_MACHINE = {*FULL, errno.EPIPE}
"""Errors of the operating system that are not faults of a component."""


@contextmanager
def component_errors(part: object | None = None) -> Iterator[None]:
    """Names the component that an unexpected exception comes from. It also works as a decorator, `@component_errors()`.

    The component is the innermost one whose method the exception passed through, else `part`. A `KgenError`, a full
    disk, and exceptions that come from no component pass unchanged.

    Args:
        part: The object that is called inside the block: a component, its class, or an object of another type.

    Raises:
        PluginError: a component raised an `OSError`.
        ComponentError: a component raised any other exception, or called `sys.exit`. The cause is the exception.
    """
    try:
        yield
    except (KgenError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise
        owner = _owner(error.__traceback__)
        owner = part if owner is None else owner
        if owner is None:
            raise
        if isinstance(error, OSError):
            raise PluginError(f"{address(owner)}: {_one_line(str(error)) or type(error).__name__}") from error
        raise ComponentError(f"{address(owner)} failed{_place(error.__traceback__)}: {reason(error)}") from error


def address(part: object) -> str:
    """The name of a component (or of a class) in an error: "metric 'mine/sharp' of kgen-plugin-mine 1.0"."""
    cls = part if isinstance(part, type) else type(part)
    component = _registered(cls)
    if component is None:
        return f"{cls.__module__}:{cls.__qualname__} (which no plugin registers)"
    return str(component)


def reason(error: BaseException) -> str:
    """An exception in one line, without the text that Keras adds: "IndexError: boom"."""
    if isinstance(error, NotImplementedError) and not str(error):
        return f"{type(error).__name__}: it does not define '{_innermost(error.__traceback__)}'"
    bold = BOLD.search(str(error))
    return f"{type(error).__name__}: {_one_line(bold.group(1) if bold else str(error))}".removesuffix(": ")


def _registered(cls: type[Any]) -> Component | None:
    """The declaration of a class, or of its nearest base class that a plugin registers."""
    from kgen.plugins.discovery import registry

    return next(filter(None, (registry().of_class(base) for base in cls.__mro__)), None)


def _owner(trace: TracebackType | None) -> Any:
    """The component (or its class) whose method is the innermost in a traceback; None if there is none.

    Of a class that is not `Configurable`, such as an optimizer, the methods of Keras do not count: where a callback
    sets a learning rate that Keras refuses, the callback is the owner.
    """
    options = sys.modules.get("kgen.options")
    if options is None:  # no component is loaded yet, as in `kgen --help`
        return None
    found = None
    for frame, _ in traceback.walk_tb(trace):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        cls = first if isinstance(first, type) else type(first)
        if issubclass(cls, options.Configurable) or not (_in_framework(code.co_filename) or _registered(cls) is None):
            found = first
    return found


def _place(trace: TracebackType | None) -> str:
    """The innermost file and line outside of Keras and its backends."""
    frames = [f for f in traceback.extract_tb(trace) if not _in_framework(f.filename)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _in_framework(file: str) -> bool:
    return any(part in file for part in FRAMEWORKS)


def _innermost(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return frames[-1].name if frames else ""


def _one_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
