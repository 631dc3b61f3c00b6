"""Prints components, kinds and plugins with their options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from kgen.cli.common import WIDE, log, plain_console
from kgen.options.validation import alternatives, model_of, schema_of, tag_names
from kgen.plugins.registry import Component, DeclaredKind
from kgen.reporting.plain import printable

TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true|false", "object": "mapping"}
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
METHODS = {"generator": ("generate", "sample.options"), "decoder": ("decode", "sample.options.decoder")}
"""The sampling method of a kind, and the place of its options in a run file."""

Schema = dict[str, Any]
Row = tuple[str, str, str]


def describe_plugin(components: Sequence[Component], kinds: Sequence[DeclaredKind]) -> None:
    """Prints the kinds that a plugin declares, and its components."""
    log(str(components[0].origin))
    for kind in kinds:
        log(f"  kind {kind.name}: {kind.summary}")
    for component in components:
        log(f"  {component.kind} {component.id}: {component.summary}")


def describe_kind(kind: DeclaredKind, components: Sequence[Component]) -> None:
    """Prints a kind that a plugin declares, and its components from all plugins."""
    log(f"kind {kind.name}, of {kind.origin.release}: {kind.summary}")
    log(f"each is a {kind.contract}")
    for component in components:
        log(f"  {component.short}: {component.summary} ({component.origin.release})")


def describe_component(component: Component) -> None:
    """Imports a component's class, and prints its documentation and options."""
    cls = component.load()
    origin = component.origin
    log(f"{component.kind} {component.id}: {component.summary}")
    log(f"{origin.distribution} {origin.version}, {component.target}\n")
    log(f"{inspect.getdoc(cls) or ''}\n")
    if not isinstance(cls, type):
        print("options: none\n")
        return
    _print_options("options", cls, component.id)
    if component.kind in METHODS:
        method, place = METHODS[component.kind]
        _print_options(f"options of {method} (in a run file: {place})", getattr(cls, method), component.id)


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
    plain_console(WIDE).print(table, "")


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
