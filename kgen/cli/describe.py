"""Prints components, kinds and plugins with their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from kgen.cli.common import WIDE, log, plain_console
from kgen.options.documentation import described_loss
from kgen.options.rows import option_rows
from kgen.options.validation import model_of, schema_of
from kgen.plugins.registry import Component, DeclaredKind
from kgen.reporting.plain import printable

METHODS = {"generator": ("generate", "sample.options"), "decoder": ("decode", "sample.options.decoder")}
"""The sampling method of a kind, and the place of its options in a run file."""


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
    if loss := described_loss(cls):
        log(f"loss: {loss}\n")
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
