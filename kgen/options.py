"""A component's signature is its configuration: validation, help and schema are all read from it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import pydantic
import pydantic_core

from kgen.errors import ConfigError, PluginError

WIRED = {
    *("self", "space", "condition_space", "image_space"),
    *("x", "condition", "null_condition", "noise", "source", "region", "latent"),
}
"""Arguments that kgen supplies: they are no options."""

KERAS = {"name", "dtype", "trainable", "autocast", "activity_regularizer"}
"""Arguments of every Keras layer."""

LARGEST = 1_000_000
"""The largest number of steps, samples, layers or features that a method, or a part of a pipeline, may be asked for."""


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
    """A pydantic model of the options: unknown keys are refused, types and ranges are checked.

    No whole number may be larger than the class allows (`Configurable.largest_option`), or `LARGEST` for a method.

    Raises:
        TypeError: an option cannot be given by its name, or its name is taken.
        NameError, PydanticUserError: an annotation cannot be used.
    """
    for name, parameter in options(function).items():
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise TypeError(f"'{name}' can only be given by its position")
        if name == "name" or name.startswith("_") or hasattr(pydantic.BaseModel, name):
            raise TypeError(f"'{name}' is a name that no option can have")
    bounded = pydantic.AfterValidator(_at_most(getattr(function, "largest_option", LARGEST)))
    fields: dict[str, Any] = {
        name: (Annotated[p.annotation, bounded], ... if p.default is p.empty else p.default)
        for name, p in options(function).items()
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return pydantic.create_model(title, __config__=config, **fields)


def _at_most(largest: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if any(abs(number) > largest for number in _integers(value)):
            raise ValueError(f"must be at most {largest:,}")
        return value

    return check


def _integers(value: Any) -> Iterator[int]:
    """All whole numbers in an option."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _integers(vars(value))


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


def plain(value: Any) -> Any:
    """Options as YAML and JSON can hold them: dataclasses become mappings, tuples lists."""
    return pydantic.TypeAdapter(Any).dump_python(value, mode="json")


class Configurable:
    """Checks a component's options when it is constructed, and gives `config`: them as plain data.

    Options that are given in Python are converted as those of a run file are: ``network={"kind": "dit"}`` becomes the
    dataclass that the signature names. `config` is read from the attributes of the options' names.

    Attributes:
        largest_option: The largest whole number that an option may be; a seed needs 2^31 - 1.
    """

    largest_option: ClassVar[int] = 2**31 - 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
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
            names = list(inspect.signature(init).parameters)[1:]
            given = dict(zip(names, args, strict=False))
            converted = check_options(cls, {**given, **kwargs})
            args = tuple(converted.get(name, value) for name, value in given.items()) + args[len(given) :]
            kwargs = {name: converted.get(name, value) for name, value in kwargs.items()}
        init(self, *args, **kwargs)

    checked.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]  # Keras looks no further
    return checked


def check_options(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options among the arguments of a constructor, checked and converted to their annotated types.

    Raises:
        ConfigError: an option is unknown, missing or wrong; near names are suggested.
    """
    try:
        own, model = options(cls), option_model(cls, cls.__name__)
    except (NameError, TypeError, pydantic.errors.PydanticUserError):
        return {}  # what is wrong with a signature is said where a run file names the component
    constructors: list[Any] = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    signatures = [inspect.signature(init).parameters.values() for init in constructors]
    elsewhere = {parameter.name for parameters in signatures for parameter in parameters} - set(own)
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in signatures[0]):
        elsewhere |= KERAS
    try:
        checked = model(**{name: value for name, value in given.items() if name not in elsewhere})
    except pydantic.ValidationError as error:
        problems = "; ".join(_problem(detail, list(own)) for detail in error.errors())
        raise ConfigError(f"{cls.__name__}: {problems}") from error
    return {name: getattr(checked, name) for name in own if name in given}


def _problem(detail: Any, known: list[str]) -> str:
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown option '{key}'{hint} (it takes: {', '.join(known) or 'no options'})"
    given = f", not {detail['input']!r}" if detail["type"] == "literal_error" else ""
    return f"{key}: {detail['msg']}{given}"
