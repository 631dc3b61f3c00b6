"""What all components share: options that are checked when they are given, and kept as plain data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pydantic_core

from kgen.errors import PluginError
from kgen.options.arguments import Arguments, problems
from kgen.options.renamed import rename_keys
from kgen.options.signature import options, supplied
from kgen.options.validation import check_options, plain

KERAS = {"name", "dtype", "trainable", "autocast", "activity_regularizer"}
"""Arguments of every Keras layer."""


class Configurable:
    """Checks a component's options when it is constructed, and gives `config`: them as plain data.

    Options that are given in Python are checked and converted as those of a run file are: ``network={"kind": "dit"}``
    becomes the dataclass that the signature names. `config` is read from the attributes of the options' names.

    Attributes:
        arguments: By the name of a method, which of its arguments kgen supplies; all others are options. A subclass
            where that is not clear is refused when it is defined.
        renamed: Old name -> new name, of options that had another name in an earlier release. Old names are still read,
            with a warning.
        largest_option: The largest whole number that an option may be; a seed needs 2^31 - 1.

    Raises:
        PluginError: from the definition of a subclass whose arguments are not in order.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments()}
    renamed: ClassVar[Mapping[str, str]] = {}
    largest_option: ClassVar[int] = 2**31 - 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if found := list(problems(cls, cls.arguments)):
            raise PluginError(f"{cls.__module__}:{cls.__qualname__}: {'; '.join(found)}")
        if "__init__" in vars(cls):
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]

    @property
    def config(self) -> dict[str, Any]:
        """All options, as YAML and JSON can hold them.

        Raises:
            PluginError: an option is not stored under its own name, or what is stored there is no plain value.
        """
        return {name: self._option(name) for name in options(type(self))}

    def _option(self, name: str) -> Any:
        owner = f"{type(self).__module__}:{type(self).__qualname__}"
        if not hasattr(self, name):
            raise PluginError(f"{owner} must store its option '{name}' as self.{name}")
        try:
            return plain(getattr(self, name))
        except pydantic_core.PydanticSerializationError as error:
            kind = type(getattr(self, name)).__name__
            raise PluginError(
                f"{owner} must store its option '{name}' as self.{name}, as it was given, but what is there, "
                f"a {kind}, holds what no file can: store layers under another name"
            ) from error


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that checks and converts its options first, unless a subclass's constructor has called it."""

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        cls: Any = type(self)
        if cls.__init__ is checked:
            rename_keys(kwargs, cls.renamed, cls.__name__)
            kwargs |= check_options(cls, _options_among(cls, kwargs), cls.__name__)
        init(self, *args, **kwargs)

    checked.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]  # Keras looks no further
    return checked


def _options_among(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a constructor's arguments is neither supplied by kgen nor Keras's own."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    passes_on = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    others = {*supplied(cls), *(KERAS if passes_on else ())} - set(options(cls))
    return {name: value for name, value in given.items() if name not in others}
