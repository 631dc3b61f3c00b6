"""Finds plugins, and asks each in isolation for its components. No other module uses pluggy's manager."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kgen.errors import IncompatibleError, KgenError, PluginError
from kgen.plugins import builtin, hookspecs
from kgen.plugins.hookspecs import API
from kgen.plugins.isolation import isolated
from kgen.plugins.registry import NAME, PREFIX, Provenance, Registrar, Registry

GROUP = "kgen"
DISABLE = "KGEN_DISABLE_PLUGINS"  # namespaces, separated by commas
CONTRACT = "KGEN_API"
"""The attribute of a plugin that holds the number of the contract that it was written for."""

CORE = "kgen-core"
"""The distribution of kgen itself. The distribution `kgen` belongs to another project."""

_MAY_NAME_KGEN = re.compile(r"\s*kgen", re.IGNORECASE)


@functools.cache
def registry() -> Registry:
    """The registry of all installed plugins, which is built once per process."""
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
    return discover(importlib.metadata.entry_points(group=GROUP), disabled)


def discover(entry_points: Iterable[Any], disabled: Iterable[str] = ()) -> Registry:
    """Builds a registry from kgen's own components and those of the given entry points.

    A plugin that fails in any way is recorded in `Registry.broken`, with the reason; the others still work. If a single
    component cannot be used, it is recorded in `Registry.refused`, and the rest of its plugin still works.

    Args:
        entry_points: The entry points of plugins.
        disabled: Namespaces of plugins that are not imported.
    """
    found, hooks = Registry(), Hooks()
    own = Provenance("kgen", CORE, importlib.metadata.version(CORE))
    hooks.ask("kgen_components", builtin, own, registry=Registrar(found, own))
    described = [(ep, ep.dist.metadata) for ep in entry_points]  # every access to `metadata` parses a file
    plugins = {(ep.name, ep.value, metadata["Name"]): (ep, metadata) for ep, metadata in described}
    origins = {key: Provenance(key[0], key[2], plugins[key][1]["Version"]) for key in sorted(plugins)}
    for key, origin in origins.items():
        entry_point, metadata = plugins[key]
        trial = Registry(components=dict(found.components), kinds=dict(found.kinds))
        try:
            if origin.namespace in disabled:
                raise PluginError(f"disabled by {DISABLE}")
            _check_namespace(origin, [own, *(other for there, other in origins.items() if there != key)])
            check_requirement(metadata.get_all("Requires-Dist") or [], own.version)
            with isolated(str(origin), f" ({DISABLE}={origin.namespace} leaves it out)"):
                plugin = entry_point.load()
                _check_contract(plugin, origin)
                hooks.ask("kgen_components", plugin, origin, registry=Registrar(trial, origin))
        except KgenError as error:
            found.broken[origin] = str(error)
            if isinstance(error, IncompatibleError):
                found.incompatible.add(origin)
        else:
            found.components, found.kinds = trial.components, trial.kinds
            found.plugins[origin] = plugin
    found.settle()
    return found


def component_id(part: object) -> str:
    """The full id under which an object's class is registered; else its import path."""
    cls = type(part)
    component = registry().of_class(cls)
    return f"{cls.__module__}:{cls.__qualname__}" if component is None else component.id


def _check_namespace(origin: Provenance, others: Iterable[Provenance]) -> None:
    """Raises PluginError if another distribution has the same namespace, unless this one owns it by its name.

    The order in which plugins are found has no effect: if neither owns the namespace by its name, neither gets it.
    """
    if not NAME.fullmatch(origin.namespace):
        raise PluginError(f"the namespace must be letters, digits and '._+-', not {origin.namespace!r}")
    rivals = [other for other in others if other.namespace == origin.namespace]
    for other in rivals:
        if other.distribution == CORE or _owns_namespace(other):
            raise PluginError(f"the namespace '{origin.namespace}' belongs to {other.distribution}")
    if rivals and not _owns_namespace(origin):
        raise PluginError(
            f"{rivals[0].distribution} claims the namespace '{origin.namespace}' too: uninstall one of the two"
        )


def _owns_namespace(origin: Provenance) -> bool:
    return canonicalize_name(origin.distribution) == canonicalize_name(PREFIX + origin.namespace)


def check_requirement(requires: Iterable[str], version: str) -> None:
    """Raises PluginError if a distribution requires another version of kgen.

    The requirement may name `kgen-core`, or `kgen`, which a plugin's author may write by mistake.
    """
    for text in filter(_MAY_NAME_KGEN.match, requires):  # parsing all of them takes 40 ms
        needed = _parsed(text)
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in (CORE, "kgen") or not applies:
            continue
        if not needed.specifier.contains(version, prereleases=True):
            raise PluginError(f"it needs {needed.name}{needed.specifier}, but this is {CORE} {version}")


_parsed = functools.cache(Requirement)  # most plugins have the same requirement


def running() -> str:
    """The name and version of this kgen: "kgen-core 0.1.0"."""
    return f"{CORE} {importlib.metadata.version(CORE)}"


def _check_contract(plugin: Any, origin: Provenance) -> None:
    """Raises IncompatibleError if a plugin was written for another contract than `hookspecs.API`."""
    module = sys.modules.get(getattr(plugin, "__module__", None) or "")
    number = getattr(plugin, CONTRACT, getattr(module, CONTRACT, API))
    if not isinstance(number, int) or isinstance(number, bool):
        raise PluginError(f"{CONTRACT} must be the number of a contract, such as {API}, not {number!r}")
    if number == API:
        return
    newer, own = f"'pip install --upgrade {CORE}'", f"'pip install --upgrade {origin.distribution}'"
    raise IncompatibleError(
        f"it was written for contract {number} of kgen, and this is {running()}, with contract {API}: "
        + (
            f"upgrade kgen ({newer}), or install an older {origin.distribution}"
            if number > API
            else f"upgrade it ({own})"
        )
    )


class Hooks:
    """kgen's hooks. They ask one plugin at a time, so that the fault of one does not reach the others."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("kgen")
        self._manager.add_hookspecs(hookspecs)

    def ask(self, hook: str, plugin: object, origin: Provenance, **arguments: Any) -> None:
        """Calls a hook of a plugin, if the plugin implements it. A misspelled hook is an error."""
        try:
            self._manager.register(plugin, name=origin.namespace)
            self._require_known(plugin)
            getattr(self._manager.hook, hook)(**arguments)
        finally:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)

    def _require_known(self, plugin: object) -> None:
        """Raises PluginError if a registered plugin implements a hook that kgen does not have."""
        for caller in self._manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                known = [name for name in vars(hookspecs) if hasattr(self._manager.hook, name)]
                near = difflib.get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f": there are {', '.join(known)}"
                raise PluginError(f"kgen has no hook '{caller.name}'{hint}")
