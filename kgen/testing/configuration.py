"""Checks of the configuration, for every kind of component."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pydantic

from kgen.options import option_model, options, supplied


class ConfigurationConformance:
    """Checks that a component's options can be validated, shown and saved, and that it can be rebuilt from them."""

    _example: ClassVar[Any]

    def build(self) -> Any:
        """Returns a new, tiny component. Every call uses the same options."""
        raise NotImplementedError(f"{type(self).__name__}.build must return a tiny component")

    def example(self) -> Any:
        """A component for checks that do not change it. It is built once per class; pytest drops it at the end."""
        if "_example" not in type(self).__dict__:
            type(self)._example = self.build()
        return type(self)._example

    @classmethod
    def teardown_class(cls) -> None:
        if "_example" in cls.__dict__:
            del cls._example

    def test_signature_is_typed(self) -> None:
        """Checks that every option has a type from which a validator and a JSON schema can be made."""
        check_signature(type(self.example()))

    def test_options_are_attributes(self) -> None:
        component = self.example()
        for name in options(type(component)):
            assert hasattr(component, name), (
                f"{type(component).__name__} takes '{name}', but has no attribute of that name: its configuration "
                f"could not be saved; write self.{name} = {name}"
            )

    def test_configuration_is_plain_data(self) -> None:
        component = self.example()
        for name in options(type(component)):
            check_plain(component, name)
        again = json.loads(json.dumps(component.config))
        assert again == component.config, (
            f"{type(component).__name__}.config does not survive JSON: {component.config} became {again}; keep each "
            f"option under its own name as it was given"
        )

    def test_rebuilds_from_configuration(self) -> None:
        component = self.example()
        again = rebuild(component)
        assert again.config == component.config, (
            f"{type(component).__name__} built from its own configuration {component.config} has another one: "
            f"{again.config}"
        )


def check_plain(component: Any, name: str) -> None:
    """Checks that an option's attribute holds the option as it was given, not an object that was made from it."""
    import keras

    value = getattr(component, name, None)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    made = [part for part in parts if isinstance(part, keras.layers.Layer | keras.Variable | np.ndarray)]
    assert not made, (
        f"{type(component).__name__}.{name} holds a {type(made[0]).__name__}, but '{name}' is an option: keep the "
        f"option there as it was given, so that it can be saved, and what is made of it under another name"
    )


def check_signature(function: Callable[..., Any]) -> None:
    """Checks that an option model can be made from a constructor (given the class) or method."""
    name = function.__qualname__
    for option, parameter in options(function).items():
        assert parameter.annotation is not Any, f"{name}: option '{option}' has no type"
    try:
        option_model(function, name).model_json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise AssertionError(f"{name}: no validator can be made of the options' types: {error}") from error


def check_method_options(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Checks that the options of `generate` or `decode` are named and typed, and allow the values of the test."""
    check_signature(function)
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds, (
        f"{function.__qualname__} takes **kwargs, so that a misspelled option goes unseen: name its options"
    )
    for option, parameter in options(function).items():
        assert parameter.default is not parameter.empty, (
            f"{function.__qualname__}: option '{option}' has no default, so that images cannot be made without it"
        )
    try:
        option_model(function, function.__qualname__)(**given)
    except pydantic.ValidationError as error:
        raise AssertionError(
            f"{function.__qualname__} does not allow the options that the test gives: {error}"
        ) from error


def allows(function: Callable[..., Any], given: Mapping[str, Any]) -> bool:
    """Whether the types of a method's options allow these values."""
    try:
        option_model(function, function.__qualname__)(**given)
    except pydantic.ValidationError:
        return False
    return True


def rebuild(component: Any, **more: Any) -> Any:
    """Rebuilds a component from its configuration, in the same spaces."""
    cls = type(component)
    checked = option_model(cls, cls.__name__)(**json.loads(json.dumps(component.config)))
    own = {name: getattr(checked, name) for name in type(checked).model_fields}
    return cls(**{name: getattr(component, name) for name in supplied(cls)}, **{**own, **more})


def shown(options: Mapping[str, Any]) -> str:
    """Options as they are given in a call, for messages."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
