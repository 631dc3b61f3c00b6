"""The JSON schema (draft 2020-12) of run files, for editors, with the options of every installed component."""

from __future__ import annotations

import json
from typing import Any

from kgen.config.components import DEFAULTS, JOINT, PARTS
from kgen.config.fit import OPTIMIZER
from kgen.config.run_config import RunConfig
from kgen.config.staged import STAGED, Staged
from kgen.contracts.joint import Beside
from kgen.errors import PluginError
from kgen.options.validation import model_of, schema_of
from kgen.plugins.discovery import registry
from kgen.plugins.registry import KINDS, Component, Kind
from kgen.storage.ownership import SCHEMA_TITLE

Schema = dict[str, Any]

_SECTIONS = (
    *("InitConfig", "LoraConfig", "PowerEmaConfig", "FitConfig", "SampleConfig", "EvaluateConfig", "LikelihoodConfig"),
)

_SOURCE: Schema = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/InitConfig"}]}
_JOINED_ENCODER = "encoder_of_several"
"""The definition of an encoder that is joined with others, and has no stage of its own."""


def run_file_schema() -> Schema:
    """The JSON schema of run files. Imports the class of every component; if that fails, it allows any options."""
    definitions: Schema = {}
    for kind in KINDS:
        definitions[kind] = _any_of_kind(kind, definitions)
    schema = schema_of(RunConfig)
    definitions |= {name: _section(schema["$defs"][name]) for name in _SECTIONS}
    definitions["Init"] = {"anyOf": [{"type": "null"}, *_SOURCE["anyOf"], {"type": "array", "items": _SOURCE}]}
    properties = {name: dict(found) for name, found in schema["properties"].items()}
    properties["init"] = _refer("Init", description=properties["init"]["description"])
    for key, kind in PARTS.items():
        properties[key] = _refer(kind, description=properties[key].get("description", ""))
        if (name := DEFAULTS[key]) is not None:
            properties[key]["default"] = name
    definitions["EvaluateConfig"]["properties"]["metrics"]["items"] = _refer("metric")
    fit = definitions["FitConfig"]["properties"]
    fit["optimizer"] = _refer("optimizer", default=OPTIMIZER, description=fit["optimizer"]["description"])
    fit["callbacks"] = _list_of("callback", fit["callbacks"], [])
    properties["loggers"] = _list_of("logger", properties["loggers"], ["kgen/tensorboard"])
    properties["encoder"] = _one_or_several(properties["encoder"], definitions)
    for kind in STAGED:
        _add_stage(kind, definitions)
    optional = {"name"} | {key for key, default in DEFAULTS.items() if default}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_TITLE,
        "description": schema["description"],
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in schema["required"] if name not in optional],
        "properties": properties,
        "$defs": definitions,
    }


def _add_stage(kind: Staged, definitions: Schema) -> None:
    """Adds the keys of the training stage to the schema of encoders or decoders, and `from: RUN` alone."""
    stage: Schema = {
        "fit": _refer("FitConfig", description=f"Settings of the {kind}'s training, before the generator's."),
        "data": _refer("dataset", description=f"Dataset of the {kind}'s training; by default the run's data."),
        "init": _refer("Init", description=f"Weights with which the {kind}'s training starts."),
        "from": {"type": "string", "description": f"Another run, whose trained {kind} is used."},
    }
    reused = {
        "type": "object",
        "description": f"The {kind} of another run.",
        "properties": {"from": stage["from"]},
        "required": ["from"],
        "additionalProperties": False,
    }
    alternatives = definitions[kind]["anyOf"]
    definitions[kind] = {
        "anyOf": [
            *(
                {**own, "properties": own["properties"] | stage} if own["type"] == "object" else own
                for own in alternatives
            ),
            reused,
        ]
    }


def _section(schema: Schema) -> Schema:
    return {**schema, "properties": dict(schema["properties"])}


def _refer(name: str, **more: Any) -> Schema:
    return {**more, "$ref": f"#/$defs/{name}"}


def _list_of(kind: Kind, found: Schema, default: list[str]) -> Schema:
    return {"type": "array", "items": _refer(kind), "default": default, "description": found["description"]}


def _one_or_several(encoder: Schema, definitions: Schema) -> Schema:
    """The schema of an encoder, or of a list of joined encoders, each of which may have a dropout."""
    dropout = schema_of(Beside)["properties"]
    alternatives = [
        {**found, "properties": found["properties"] | dropout} if found["type"] == "object" else found
        for found in definitions["encoder"]["anyOf"]
    ]
    definitions[_JOINED_ENCODER] = {"anyOf": alternatives}
    several = {"type": "array", "minItems": 2, "items": _refer(_JOINED_ENCODER)}
    (joint,) = (found for found in alternatives if JOINT in found.get("properties", {}).get("name", {}).get("enum", ()))
    joint["properties"]["encoders"] = several
    unnamed = {**joint, "required": ["encoders"]}
    reference = {key: value for key, value in encoder.items() if key == "$ref"}
    return {"description": encoder["description"], "anyOf": [reference, several, unnamed]}


def _any_of_kind(kind: Kind, definitions: Schema) -> Schema:
    """The alternatives for a kind: for each component, a mapping, and its name alone if it needs no options."""
    components = registry().of_kind(kind)
    alternatives: list[Schema] = []
    bare: list[str] = []
    for component in components:
        names = [component.id]
        if [other.name for other in components].count(component.name) == 1:
            names.append(component.name)
        mapping = _mapping(component, names, definitions)
        alternatives.append(mapping)
        if mapping["required"] == ["name"]:
            bare += names
    alternatives = [{"type": "string", "enum": bare}, *alternatives] if bare else alternatives
    return {"anyOf": alternatives} if alternatives else {"not": {}}  # no plugin has a component of this kind


def _mapping(component: Component, names: list[str], definitions: Schema) -> Schema:
    """The schema of a component with its options. Adds the types that these need to `definitions`."""
    try:
        options = schema_of(model_of(component.load(), component.id))
    except PluginError:
        options = {"additionalProperties": True}
    prefix = f"{component.kind}.{component.id.replace('/', '.')}."
    text = json.dumps(options).replace('"#/$defs/', f'"#/$defs/{prefix}')
    options = json.loads(text)
    definitions |= {prefix + name: found for name, found in options.get("$defs", {}).items()}
    return {
        "type": "object",
        "description": component.summary,
        "properties": {"name": {"enum": names}, **options.get("properties", {})},
        "required": ["name", *options.get("required", [])],
        "additionalProperties": options.get("additionalProperties", False),
    }
