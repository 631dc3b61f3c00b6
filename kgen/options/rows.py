"""Options in short, for tables and forms: the allowed values and the default of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kgen.options.validation import alternatives, tag_names

TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true|false", "object": "mapping"}
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}

Schema = dict[str, Any]
Row = tuple[str, str, str]


def option_rows(schema: Schema, root: Schema, prefix: str = "", kind: str = "") -> Iterator[Row]:
    """Yields name, allowed values and default of each option; the options of a nested choice follow it."""
    required = schema.get("required", [])
    for name, node in schema.get("properties", {}).items():
        if kind and name == "kind":
            continue
        default = node.get("default")
        text = "required" if name in required else json.dumps(default, ensure_ascii=False)
        nested = [leaf for leaf in alternatives(node, root) if leaf.get("properties")]
        allowed = values(node, root)
        if isinstance(default, dict) and "kind" in default:
            text = str(default["kind"])
            bare = text.rpartition("/")[2]
            text = bare if bare in allowed.replace(" ", "").split("|") else text
        note = f"  (kind: {kind})" if kind else ""
        yield f"{prefix}{name}", allowed + note, text
        for leaf in nested:
            yield from option_rows(leaf, root, f"{prefix}{name}.", _kind(leaf))


def values(node: Schema, root: Schema) -> str:
    """The values that a schema allows, in short: "int >= 1 | null"."""
    words = list(dict.fromkeys(_leaf(leaf, root) for leaf in alternatives(node, root)))
    listed = {name for word in words if "|" in word for name in word.split("|")}
    return " | ".join(word for word in words if word not in listed)


def _leaf(node: Schema, root: Schema) -> str:
    if "const" in node or "enum" in node:
        return "|".join(_without_ids([str(value) for value in node.get("enum", [node.get("const")])]))
    if "prefixItems" in node:
        return f"[{', '.join(values(item, root) for item in node['prefixItems'])}]"
    if node.get("type") == "array":
        return f"list of {values(node.get('items', {}), root)}"
    if node.get("properties"):
        return _kind(node) or "mapping"
    limits = "".join(f" {sign} {node[key]}" for key, sign in LIMITS.items() if key in node)
    types = node.get("type", "anything")
    return " | ".join(TYPES.get(name, name) for name in ([types] if isinstance(types, str) else types)) + limits


def _without_ids(names: list[str]) -> list[str]:
    """Removes a full id if the bare name of the same component is also there."""
    return [name for name in names if name.partition("/")[2] not in names]


def _kind(node: Schema) -> str:
    names = tag_names(node)
    return _without_ids(names)[0] if names else ""
