"""Options that accept any component of a kind, from any plugin: ``Annotated[Network, OneOf("mine.network")]``.

In a run file, such an option is the component's name, or a mapping with its name as ``kind`` and its options::

    network: {kind: dit, width: 128}
    sampler: heun

The owner of the option receives an instance if the component is a class, constructed with its options. If it is a
function or another object, which has no options, the owner receives the name. `part` returns the object in both cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from kgen.errors import ConfigError, KgenError, PluginError
from kgen.options.validation import KIND, check_options, model_of, plain, schema_of
from kgen.plugins import discovery
from kgen.plugins.registry import Component, Registry

_described: ContextVar[tuple[str, ...]] = ContextVar("described", default=())
"""The kinds whose schemas are being written, because a part of a kind may contain a part of the same kind."""


class OneOf:
    """Marks an option that accepts any component of a kind that a plugin declares.

    Args:
        kind: The kind, such as "myplugin.network".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        _declared(self.kind)
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(plain)
        )

    def _validate(self, value: Any) -> Any:
        """Turns a name, a mapping or an instance into the instance, or into the name if the part has no options."""
        if not isinstance(value, str | Mapping):
            for component in (discovery.registry().of_class(found) for found in (value, type(value))):
                if component is not None and component.kind == self.kind:
                    return value if component.loaded is type(value) else component.short
            raise PydanticCustomError("part", "must be the name of one {kind}, or a mapping", {"kind": self.kind})
        if isinstance(value, Mapping) and KIND not in value:
            names = ", ".join(component.short for component in _declared(self.kind).of_kind(self.kind))
            raise PydanticCustomError("part", "needs 'kind', one of {names}", {"names": names})
        name = value if isinstance(value, str) else value[KIND]
        given = {} if isinstance(value, str) else {key: option for key, option in value.items() if key != KIND}
        try:
            if not isinstance(name, str):
                raise ConfigError(f"must be the name of one {self.kind}")
            component = _declared(self.kind).find(self.kind, name)
            target = component.load()
            if not isinstance(target, type):
                if isinstance(value, Mapping):
                    raise ConfigError(f"'{component.short}' has no options: write its name alone")
                return component.short
            model = _model(component, target)
            needed = [option for option, field in model.model_fields.items() if field.is_required()]
            if needed and isinstance(value, str):
                example = f"{{kind: {component.short}, {needed[0]}: ...}}"
                raise ConfigError(f"'{component.short}' needs options ({', '.join(needed)}): write {example}")
        except KgenError as error:
            raise _at((() if isinstance(value, str) else (KIND,)), str(error), name) from error
        checked = model.model_validate_json(json.dumps(plain(given)), strict=True)
        return _made(component, target, {key: getattr(checked, key) for key in model.model_fields})

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        if self.kind in (above := _described.get()):
            return {"type": ["string", "object"], "description": f"one {self.kind}"}
        token = _described.set((*above, self.kind))
        try:
            return _schema(self.kind)
        finally:
            _described.reset(token)


def names_of(kind: str) -> list[str]:
    """Returns the names of all components of a kind that a plugin declares, as `part` takes them.

    Raises:
        PluginError: no plugin declares the kind.
    """
    return [component.short for component in _declared(kind).of_kind(kind)]


def part(kind: str, value: Any) -> Any:
    """Returns the object that an option names.

    Args:
        kind: The kind of the option, as in its `OneOf`.
        value: The option: a name, a mapping with `kind` and options, or the object itself.

    Raises:
        ConfigError: there is no such component, or its options are wrong.
        PluginError: the component cannot be imported.
    """
    if not isinstance(value, str | Mapping):
        return value
    given = {KIND: value} if isinstance(value, str) else dict(value)
    if not isinstance(name := given.pop(KIND, None), str):
        raise ConfigError(f"{kind}: 'kind' is missing in {given}")
    component = _declared(kind).find(kind, name)
    target = component.load()
    if isinstance(target, type):
        return _made(component, target, check_options(target, given, component.id))
    if given:
        raise ConfigError(f"{kind} '{name}' has no options, got {', '.join(given)}")
    return target


def _declared(kind: str) -> Registry:
    """Returns the registry; raises PluginError if no plugin declares the kind."""
    found = discovery.registry()
    if kind not in found.kinds:
        raise PluginError(found.no_kind(kind))
    return found


def _model(component: Component, target: type[Any]) -> type[pydantic.BaseModel]:
    """Returns the option model of a class; raises PluginError if its signature cannot be one."""
    model = model_of(target, component.id)
    if KIND in model.model_fields:
        raise PluginError(f"{component}: no option can be named '{KIND}': that key holds the component's name")
    return model


def _made(component: Component, target: type[Any], given: Mapping[str, Any]) -> Any:
    try:
        return target(**given)
    except (KgenError, ValueError):  # the contract allows these, for checks that a signature cannot express
        raise
    except Exception as error:
        raise PluginError(f"{component} cannot be made: {type(error).__name__}: {error}") from error


def _at(place: tuple[str, ...], message: str, value: Any) -> pydantic.ValidationError:
    problem = PydanticCustomError("part", "{message}", {"message": message})
    return pydantic.ValidationError.from_exception_data(
        "part", [InitErrorDetails(type=problem, loc=place, input=value)]
    )


def _schema(kind: str) -> dict[str, Any]:
    """The JSON schema of an option: a name, or a mapping for each class. Omits parts that cannot be imported."""
    names: list[str] = []
    mappings: list[dict[str, Any]] = []
    components = _declared(kind).of_kind(kind)
    for component in components:
        allowed = [component.short]
        if [other.name for other in components].count(component.name) == 1:
            allowed.append(component.name)
        allowed = list(dict.fromkeys([*allowed, component.id]))
        try:
            target = component.load()
            schema = schema_of(_model(component, target)) if isinstance(target, type) else None
        except PluginError:
            continue
        if schema is None or not schema.get("required"):
            names += allowed
        if schema is not None:
            mappings.append(_mapping(component, allowed, _inlined(schema, schema.get("$defs", {}))))
    return {"anyOf": [*([{"type": "string", "enum": names}] if names else []), *mappings]}


def _mapping(component: Component, names: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": component.summary,
        "properties": {KIND: {"enum": names}, **schema.get("properties", {})},
        "required": [KIND, *schema.get("required", [])],
        "additionalProperties": False,
    }


def _inlined(node: Any, definitions: Mapping[str, Any], above: tuple[str, ...] = ()) -> Any:
    """Replaces references in a schema by their definitions; a recursive reference becomes {}, which allows anything."""
    if isinstance(node, list):
        return [_inlined(item, definitions, above) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return {} if name in above else _inlined(definitions[name], definitions, (*above, name))
    kept = {key: value for key, value in node.items() if key not in ("$defs", "discriminator")}
    return {key: _inlined(value, definitions, above) for key, value in kept.items()}
