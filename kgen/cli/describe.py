"""Components and their options, for reading."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from kgen.cli.common import plain_console, printable, say
from kgen.options.validation import alternatives, model_of, schema_of
from kgen.plugins.registry import Component

TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true|false", "null": "null"}
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
METHODS = {"generator": "generate", "decoder": "decode"}

Schema = dict[str, Any]
Row = tuple[str, str, str]


def describe_plugin(components: Sequence[Component]) -> None:
    """Prints the components of one plugin."""
    say(str(components[0].origin))
    for component in components:
        say(f"  {component.kind} {component.id}: {component.summary}")


def describe_component(component: Component) -> None:
    """Prints a component's documentation and options; imports its class."""
    cls = component.load()
    origin = component.origin
    say(f"{component.kind} {component.id}: {component.summary}")
    say(f"{origin.distribution} {origin.version}, {component.target}\n")
    say(f"{inspect.getdoc(cls) or ''}\n")
    _print_options("options", cls, component.id)
    if method := METHODS.get(component.kind):
        _print_options(f"options of {method} (in a run file: sample.options)", getattr(cls, method), component.id)


def _print_options(title: str, function: Callable[..., Any], owner: str) -> None:
    schema = schema_of(model_of(function, owner))
    rows = list(option_rows(schema, schema))
    if not rows:
        print(f"{title}: none\n")
        return
    print(f"{title}:")
    table = Table("name", "value", "default", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(printable, row))
    plain_console().print(table, "")


def option_rows(schema: Schema, root: Schema, prefix: str = "", kind: str = "") -> Iterator[Row]:
    """Name, allowed values and default of each option; those of a nested choice follow it."""
    required = schema.get("required", [])
    for name, node in schema.get("properties", {}).items():
        if kind and node.get("const") == kind:
            continue
        default = node.get("default")
        text = "required" if name in required else json.dumps(default, ensure_ascii=False)
        nested = [leaf for leaf in alternatives(node, root) if leaf.get("properties")]
        if isinstance(default, dict) and "kind" in default:
            text = str(default["kind"])
        note = f"  (kind: {kind})" if kind else ""
        yield f"{prefix}{name}", values(node, root) + note, text
        for leaf in nested:
            yield from option_rows(leaf, root, f"{prefix}{name}.", _kind(leaf))


def values(node: Schema, root: Schema) -> str:
    """Which values a schema allows, in few words: "int >= 1 | null"."""
    return " | ".join(dict.fromkeys(_leaf(leaf, root) for leaf in alternatives(node, root)))


def _leaf(node: Schema, root: Schema) -> str:
    if "const" in node or "enum" in node:
        return "|".join(str(value) for value in node.get("enum", [node.get("const")]))
    if "prefixItems" in node:
        return f"[{', '.join(values(item, root) for item in node['prefixItems'])}]"
    if node.get("type") == "array":
        return f"list of {values(node.get('items', {}), root)}"
    if node.get("properties"):
        return _kind(node) or "mapping"
    limits = "".join(f" {sign} {node[key]}" for key, sign in LIMITS.items() if key in node)
    return TYPES.get(node.get("type", ""), str(node.get("type", "anything"))).replace("object", "mapping") + limits


def _kind(node: Schema) -> str:
    return str(node["properties"].get("kind", {}).get("const", ""))
