"""The extension contract: all hooks that a kgen plugin can implement.

A plugin is a Python package with an entry point in the group ``kgen``::

    [project.entry-points.kgen]
    myplugin = "kgen_plugin_myplugin.plugin"

The entry point's name is the plugin's namespace ("myplugin"). Its value is a module (or object) that implements any of
the hooks below, and that declares the number of the contract that the plugin was written for::

    import kgen

    KGEN_API = 1

    @kgen.hookimpl
    def kgen_components(registry):
        registry.generator("ddpm", "kgen_plugin_myplugin.generator:DDPM", summary="Ho et al. 2020")

If a plugin declares no number, kgen assumes 1. A plugin of another contract is listed as incompatible, with advice what
to do, and is not used. A plugin declares each component as a name and an import path, so that listing plugins imports
no framework. The component above is called "myplugin/ddpm", or "ddpm" if no other plugin has a generator of that name.
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
"""The number of this contract. It increases when plugins must be changed to keep working."""

hookspec = pluggy.HookspecMarker("kgen")
hookimpl = pluggy.HookimplMarker("kgen")


@hookspec
def kgen_components(registry: Registrar) -> None:
    """Declares components, and kinds of components.

    ``registry.KIND(name, target, summary=...)`` declares a component of one of kgen's kinds: encoder, generator,
    decoder, dataset, metric, optimizer, callback, logger. ``registry.add(kind, name, target, summary=...)`` declares a
    component of any kind, such as "myplugin.sampler". ``registry.kind("myplugin.KIND", contract, summary=...)``
    declares a kind, to which every plugin can add components. An option that is annotated with
    ``kgen.OneOf("myplugin.KIND")`` accepts all of them.

    Args:
        registry: Receives the declarations of this plugin, in its namespace.
    """


@hookspec
def kgen_commands(commands: Commands) -> None:
    """Adds commands to the command line: ``commands.add(name, target, summary=...)``.

    Args:
        commands: Receives the commands of this plugin. The target of each is a function for Typer. A name that kgen or
            another plugin already uses is refused.
    """


@hookspec
def kgen_run_finished(directory: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Called after a run has finished, and after `kgen evaluate` has scored a run again.

    kgen shows an exception as a warning; the run stays finished.

    Args:
        directory: The run directory, with all files written.
        scores: The means of `evaluation.json` over the seeds, by split and by the names of the metric and the number:
            `scores["train"]["brightness mean"]`.
    """
