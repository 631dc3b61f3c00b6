"""Finds plugins and asks each, in isolation, for its components. The only user of pluggy's manager."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterable
from typing import Any

import pluggy

from kgen import builtin, hookspecs
from kgen.registry import Provenance, Registrar, Registry

GROUP = "kgen"
DISABLE = "KGEN_DISABLE_PLUGINS"  # namespaces, separated by commas


@functools.cache
def registry() -> Registry:
    """The registry of everything installed; found once a process."""
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
    entry_points = importlib.metadata.entry_points(group=GROUP)
    return discover(ep for ep in entry_points if ep.name not in disabled)


def discover(entry_points: Iterable[Any]) -> Registry:
    """Builds a registry from kgen's own components and those of the given entry points.

    A plugin that fails in any way is recorded in `Registry.broken` with its reason; the others still work.
    """
    found = Registry()
    _ask(builtin, Provenance("kgen", "kgen", importlib.metadata.version("kgen")), found)
    for entry_point in sorted(entry_points, key=lambda ep: (ep.name, ep.value)):
        distribution = entry_point.dist
        origin = Provenance(entry_point.name, distribution.name, distribution.version)
        if any(origin.namespace == other.namespace for other in _origins(found)):
            found.broken[origin] = f"another plugin already has the namespace '{origin.namespace}'"
            continue
        trial = Registry(components=dict(found.components))
        try:
            _ask(entry_point.load(), origin, trial)
        except Exception as error:  # isolation: whatever a plugin does wrong is its own
            found.broken[origin] = f"{type(error).__name__}: {error}"
        else:
            found.components = trial.components
    return found


def _ask(plugin: object, origin: Provenance, found: Registry) -> None:
    """Has one plugin declare its components; a misspelt hook is an error."""
    manager = pluggy.PluginManager("kgen")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=origin.namespace)
    manager.check_pending()
    manager.hook.kgen_components(registry=Registrar(found, origin))


def _origins(found: Registry) -> set[Provenance]:
    return {c.origin for c in found.components.values()} | set(found.broken)
