"""A configuration without the keys that have their default values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kgen.config.components import DEFAULTS, JOINT, PARTS
from kgen.config.fit import OPTIMIZER
from kgen.config.run_config import RunConfig
from kgen.config.staged import STAGE_KEYS
from kgen.errors import ConfigError, PluginError
from kgen.options.validation import KIND, alternatives, model_of, schema_of, tag_names
from kgen.plugins.discovery import registry
from kgen.plugins.registry import Kind

Schema = dict[str, Any]
Kinds = Mapping[str, Kind]

NAME = "name"

COMPONENTS: Kinds = PARTS | {
    "optimizer": "optimizer",
    "callbacks": "callback",
    "metrics": "metric",
    "loggers": "logger",
}
"""The keys of a run file that hold a component, or a list of components."""

JOINED: Kinds = {"encoders": "encoder"}
"""The only option that holds components: that of the encoder that joins others."""

COMPONENT_DEFAULTS: dict[str, Any] = {
    "decoder": f"kgen/{DEFAULTS['decoder']}",
    "optimizer": OPTIMIZER,
    "callbacks": [],
    "metrics": [],
    "loggers": ["kgen/tensorboard"],
}
"""The default values of these keys."""


def shortened(config: RunConfig) -> dict[str, Any]:
    """The plain data of a configuration, without the keys that have their default values.

    `RunConfig.from_dict` makes an equal configuration of them. All options of a component are kept if it cannot be
    imported.
    """
    schema = schema_of(RunConfig)
    return _without_defaults(config.dump(), schema["properties"], schema, COMPONENTS)


def _without_defaults(data: Mapping[str, Any], properties: Schema, root: Schema, kinds: Kinds) -> dict[str, Any]:
    """Removes the keys of a mapping that have their default values.

    Args:
        data: The mapping.
        properties: The schema of each key.
        root: The schema with the definitions to which `properties` refer.
        kinds: The kinds of the keys that hold components.
    """
    kept: dict[str, Any] = {}
    for key, value in data.items():
        if key in kinds:
            left, default = _components(kinds[key], value, root), COMPONENT_DEFAULTS.get(key, ...)
        else:
            node = properties.get(key, {})
            left, default = (_short(found, node, root, kinds) for found in (value, node.get("default", ...)))
        if left != default:
            kept[key] = left
    return kept


def _short(value: Any, node: Schema, root: Schema, kinds: Kinds) -> Any:
    """Shortens a mapping that is a section, or a part with `kind`. Returns any other value as it is."""
    if not isinstance(value, dict):
        return value
    choices, tag = list(alternatives(node, root)), value.get(KIND)
    for choice in choices:
        properties = choice.get("properties", {})
        if value.keys() <= properties.keys() and (tag is None or tag in tag_names(choice)):
            kept = _without_defaults(_except(value, KIND), properties, root, kinds)
            named = not kept and any(tag in other.get("enum", ()) for other in choices)
            return tag if named else kept if tag is None else {KIND: tag, **kept}
    return value


def _components(kind: Kind, value: Any, root: Schema) -> Any:
    """Shortens a component, or each component of a list; `root` is the schema of run files."""
    if isinstance(value, list):
        return [_components(kind, item, root) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        component = registry().find(kind, value[NAME])
        schema = schema_of(model_of(component.load(), component.id))
    except (ConfigError, PluginError):
        return value
    joined = JOINED if component.id == JOINT else {}
    options = _without_defaults(_except(value, NAME, *STAGE_KEYS), schema.get("properties", {}), schema, joined)
    stage = {key: value[key] for key in STAGE_KEYS if key in value}
    if "fit" in stage:
        stage["fit"] = _without_defaults(stage["fit"], root["$defs"]["FitConfig"]["properties"], root, COMPONENTS)
    if "data" in stage:
        stage["data"] = _components("dataset", stage["data"], root)
    kept = options | stage
    return {NAME: value[NAME], **kept} if kept else value[NAME]


def _except(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys}
