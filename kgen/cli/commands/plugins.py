"""kgen plugins: show the installed components, and begin a new plugin."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import log
from kgen.errors import ConfigError, KgenError, PluginError

app = typer.Typer(
    help="Show the installed components and their options, and begin a new plugin.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("list", epilog="Example: kgen plugins list")
def list_plugins() -> None:
    """List every component with its kind, id and distribution, and the plugins that could not be loaded."""
    from kgen.backend.selection import select_backend
    from kgen.plugins.discovery import registry
    from kgen.plugins.registry import KINDS

    with contextlib.suppress(KgenError):  # only plugins that import Keras need a backend
        select_backend()
    found = registry()
    for kind in (*KINDS, *sorted(found.kinds)):
        for part in found.of_kind(kind):
            log(f"{kind} {part.id}: {part.summary} ({part.origin.release})")
    for component, reason in found.refused.items():
        log(f"refused: {component}: {reason}")
    for origin, reason in found.broken.items():
        state = "incompatible" if origin in found.incompatible else "broken"
        log(f"{state}: {origin}: {reason}")


@app.command("show", epilog="Example: kgen plugins show text/bag")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A component, a kind or a plugin.")]) -> None:
    """Show the documentation and options of a component, or list the components of a plugin or of a kind."""
    from kgen.backend.selection import load_backend, select_backend
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
        raise ConfigError(f"there is no component, no kind and no plugin '{name}'{found.similar(name)}")


@app.command("new", epilog="Example: kgen plugins new mine --kind generator")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the plugin, such as 'mine'.")],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="The kind of its component: encoder, generator, decoder, dataset, metric, optimizer, callback or "
            "logger, or a kind that a plugin declares.",
            show_default=False,
        ),
    ],
) -> None:
    """Write the package of a new plugin, ./kgen-plugin-NAME, with a small working component, tests and an example."""
    from kgen.authoring import new_plugin

    with contextlib.suppress(KgenError):  # only plugins that import Keras need a backend
        from kgen.backend.selection import select_backend

        select_backend()
    package = new_plugin(name, kind, Path())
    log(f"{package}: a plugin with a component of the kind {kind}. Install it, run its tests, and try the example:\n")
    log(f'  pip install -e "./{package}[test]"')
    log(f"  pytest {package}")
    log(f"  kgen check {package / 'example.yaml'}")
