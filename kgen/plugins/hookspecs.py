"""The extension contract: everything that a kgen plugin can do.

A plugin is a Python package with an entry point in the group ``kgen``::

    [project.entry-points.kgen]
    myplugin = "kgen_plugin_myplugin.plugin"

The entry point's name is the plugin's namespace ("myplugin"). Its value is a module (or object) with implementations of
the hooks below, as many as the plugin needs, and with the number of the contract that it was written for::

    import kgen

    KGEN_API = 1

    @kgen.hookimpl
    def kgen_components(registry):
        registry.generator("ddpm", "kgen_plugin_myplugin.generator:DDPM", summary="Ho et al. 2020")

A plugin that says no number is taken for 1. A plugin of another contract is listed as incompatible, with what to do,
and nothing of it is used. All that a plugin declares is a name and an import path, so that listing plugins imports no
framework. The component above is "myplugin/ddpm", or "ddpm" while no other plugin has a generator of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from kgen.plugins.registry import Registrar

if TYPE_CHECKING:
    from kgen.plugins.commands import Commands

API = 1
"""The number of this contract. It grows when a plugin has to be changed to go on working."""

hookspec = pluggy.HookspecMarker("kgen")
hookimpl = pluggy.HookimplMarker("kgen")


@hookspec
def kgen_components(registry: Registrar) -> None:
    """Declares components, and kinds of components.

    ``registry.KIND(name, target, summary=...)`` declares a component of one of kgen's kinds: encoder, generator,
    decoder, dataset, metric, optimizer, callback, logger. ``registry.add(kind, name, target, summary=...)`` declares
    one of any kind, such as "myplugin.sampler". ``registry.kind("myplugin.KIND", contract, summary=...)`` declares a
    kind, to which every plugin can add; an option that is annotated with ``kgen.OneOf("myplugin.KIND")`` takes any
    component of it.

    Args:
        registry: Takes the declarations of this plugin, under its namespace.
    """


@hookspec
def kgen_commands(commands: Commands) -> None:
    """Adds commands to the command line: ``commands.add(name, target, summary=...)``, a function for Typer.

    Args:
        commands: Takes the commands of this plugin. A name that kgen or another plugin has is refused.
    """


@hookspec
def kgen_run_finished(directory: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Is told of a run that has finished, and of one that `kgen evaluate` has scored again.

    An exception is shown as a warning, and the run stays finished.

    Args:
        directory: The run directory; everything is written.
        scores: Numbers by split and name, as in `evaluation.json`.
    """
