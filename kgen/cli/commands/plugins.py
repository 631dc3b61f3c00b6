"""kgen plugins: show the installed components."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from kgen.cli.common import WIDE, log, plain_console
from kgen.errors import ConfigError, KgenError, PluginError
from kgen.reporting.plain import printable

app = typer.Typer(
    help="Show the installed components and their options.", no_args_is_help=True, rich_markup_mode="rich"
)


@app.command("list", epilog="Example: kgen plugins list")
def list_plugins() -> None:
    """List every component with its kind, id and distribution, and the plugins that could not be loaded."""
    from rich.table import Table

    from kgen.cli.backend import select_backend
    from kgen.plugins.discovery import registry
    from kgen.plugins.registry import KINDS

    with contextlib.suppress(KgenError):  # only plugins that import Keras need a backend
        select_backend()
    found = registry()
    table = Table("kind", "id", "summary", "distribution", box=None, pad_edge=False)
    for kind in (*KINDS, *sorted(found.kinds)):
        for part in found.of_kind(kind):
            row = (kind, part.id, part.summary, f"{part.origin.distribution} {part.origin.version}")
            table.add_row(*map(printable, row))
    plain_console(WIDE).print(table)
    for component, reason in found.refused.items():
        log(f"refused: {component}: {reason}")
    for origin, reason in found.broken.items():
        state = "incompatible" if origin in found.incompatible else "broken"
        log(f"{state}: {origin}: {reason}")


@app.command("show", epilog="Example: kgen plugins show text/bag")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A component, a kind or a plugin.")]) -> None:
    """Show the documentation and options of a component, or list the components of a plugin or of a kind."""
    from kgen.cli.backend import load_backend, select_backend
    from kgen.cli.describe import describe_component, describe_kind, describe_plugin
    from kgen.plugins.discovery import registry

    select_backend()
    found = registry()
    if reason := next((why for origin, why in found.broken.items() if origin.namespace == name), None):
        raise PluginError(f"plugin '{name}' could not be loaded: {reason}")
    if reasons := [f"{part} is refused: {why}" for part, why in found.refused.items() if name == part.id]:
        raise PluginError("; ".join(reasons))
    components = [c for c in found.components.values() if name in (c.id, c.name)]
    members = [c for c in found.components.values() if c.origin.namespace == name]
    if components:
        load_backend()
    for component in components:
        describe_component(component)
    if name in found.kinds:
        describe_kind(found.kinds[name], found.of_kind(name))
    if members:
        describe_plugin(members, [kind for kind in found.kinds.values() if kind.origin.namespace == name])
    if not (components or members or name in found.kinds):
        raise ConfigError(f"there is no component, no kind and no plugin '{name}': see 'kgen plugins list'")
