"""The base class of all components: it validates options, and returns them as plain data."""

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
    """Validates the options of a component when it is constructed; `config` returns them as plain data.

    Options that are given in Python are validated and converted like those of a run file: ``network={"kind": "dit"}``
    becomes the dataclass that the signature names. `config` reads the attributes that have the names of the options.

    Attributes:
        arguments: The arguments that kgen supplies, by the name of the method; all others are options. The definition
            of a subclass in which this is ambiguous raises an error.
        renamed: Old name -> new name, for options that had another name in an earlier release. Old names are still
            accepted, with a warning.
        largest_option: The largest integer that an option may be; a seed needs 2^31 - 1.

    Raises:
        PluginError: in the definition of a subclass whose arguments are wrong.
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
        """All options, as plain data for YAML and JSON.

        Raises:
            PluginError: an option is not stored under its own name, or the stored value is not plain data.
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
                f"{owner} must store its option '{name}' as self.{name}, as it was given, but the value there, "
                f"a {kind}, cannot be written to a file: store layers under another name"
            ) from error


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """Wraps a constructor so that it validates options first, unless the constructor of a subclass called it."""

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
    """The arguments of a constructor that are neither supplied by kgen nor by Keras."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    passes_on = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    others = {*supplied(cls), *(KERAS if passes_on else ())} - set(options(cls))
    return {name: value for name, value in given.items() if name not in others}
