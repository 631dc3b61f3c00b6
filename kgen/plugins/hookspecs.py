"""The extension contract: everything that a kgen plugin can do.

A plugin is a Python package with an entry point in the group ``kgen``::

    [project.entry-points.kgen]
    myplugin = "kgen_plugin_myplugin.plugin"

The entry point's name is the plugin's namespace ("myplugin"), its value a module (or object) with hook
implementations. They declare components by name and import path, so that listing plugins imports no framework::

    import kgen

    @kgen.hookimpl
    def kgen_components(registry):
        registry.generator("ddpm", "kgen_plugin_myplugin.generator:DDPM", summary="Ho et al. 2020")

The component is then "myplugin/ddpm", or "ddpm" while no other plugin has a generator of that name.

The module (or object) says which contract it was written for: ``KGEN_API = 1``. One that says nothing is taken for 1.
A plugin of another contract is listed as incompatible, and nothing of it is used.
"""

from __future__ import annotations

import pluggy

from kgen.plugins.registry import Registrar

API = 1
"""The number of this contract. It grows when a plugin has to be changed to go on working."""

hookspec = pluggy.HookspecMarker("kgen")
hookimpl = pluggy.HookimplMarker("kgen")


@hookspec
def kgen_components(registry: Registrar) -> None:
    """Declare components: ``registry.encoder | generator | decoder | dataset | metric(name, target, summary=...)``.

    Args:
        registry: Takes the declarations of this plugin, under its namespace.
    """
