"""Which components exist: (kind, full id) -> declaration. Imports nothing that it declares."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kgen.errors import ConfigError, PluginError

Kind = Literal["encoder", "generator", "decoder", "dataset", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Provenance:
    """Where a plugin comes from: its namespace and the distribution (name, version) that brought it."""

    namespace: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Component:
    """The declaration of one component; `load` imports its class."""

    kind: Kind
    name: str
    target: str
    summary: str
    origin: Provenance

    @property
    def id(self) -> str:
        return f"{self.origin.namespace}/{self.name}"

    @property
    def loaded(self) -> Any:
        """The class, if its module is imported already; else None."""
        module, _, attribute = self.target.partition(":")
        return getattr(sys.modules.get(module), attribute, None)

    def load(self) -> type[Any]:
        """Imports the class. Raises PluginError where that fails, with the reason."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except Exception as error:  # a plugin may fail in any way; the user must learn which plugin and how
            raise PluginError(
                f"{self.kind} '{self.id}' of {self.origin.distribution} {self.origin.version} cannot be imported "
                f"from '{self.target}': {type(error).__name__}: {error}"
            ) from error


@dataclass
class Registry:
    """All declarations, and the reasons of the plugins that could not be loaded (`broken`)."""

    components: dict[tuple[Kind, str], Component] = field(default_factory=dict)
    broken: dict[Provenance, str] = field(default_factory=dict)

    def add(self, component: Component) -> None:
        key = (component.kind, component.id)
        if key in self.components:
            raise PluginError(f"{component.kind} '{component.id}' is registered twice: keep one of the two")
        self.components[key] = component

    def of_kind(self, kind: Kind) -> list[Component]:
        return sorted((c for c in self.components.values() if c.kind == kind), key=lambda c: c.id)

    def of_class(self, cls: type[Any]) -> Component | None:
        """The declaration of a class; None where no plugin has registered it."""
        return next((component for component in self.components.values() if component.loaded is cls), None)

    def find(self, kind: Kind, name: str) -> Component:
        """Looks up a full id ("plugin/name"), or a bare name while it is unique.

        Raises:
            ConfigError: unknown (near names are suggested; a broken plugin of that namespace is named) or ambiguous.
        """
        if found := self.components.get((kind, name)):
            return found
        matches = [c for c in self.of_kind(kind) if c.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ConfigError(f"{kind} '{name}' is ambiguous: write one of {_quoted(c.id for c in matches)}")
        raise ConfigError(f"unknown {kind} '{name}'{self._hint(kind, name)}")

    def _hint(self, kind: Kind, name: str) -> str:
        names = {n for c in self.of_kind(kind) for n in (c.id, c.name)}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        if near:
            hint = f": did you mean {_quoted(near)}?"
        else:
            hint = f": there are {_quoted(c.id for c in self.of_kind(kind)) or 'none'}"
        for origin, reason in self.broken.items():
            if name.startswith(origin.namespace + "/") or ("/" not in name and not near):
                hint += f"; plugin '{origin.namespace}' ({origin.distribution}) could not be loaded: {reason}"
        return hint


class Registrar:
    """Takes the declarations of one plugin, and files them under its namespace."""

    def __init__(self, registry: Registry, origin: Provenance) -> None:
        self._registry = registry
        self._origin = origin

    def encoder(self, name: str, target: str, *, summary: str) -> None:
        self._declare("encoder", name, target, summary)

    def generator(self, name: str, target: str, *, summary: str) -> None:
        self._declare("generator", name, target, summary)

    def decoder(self, name: str, target: str, *, summary: str) -> None:
        self._declare("decoder", name, target, summary)

    def dataset(self, name: str, target: str, *, summary: str) -> None:
        self._declare("dataset", name, target, summary)

    def metric(self, name: str, target: str, *, summary: str) -> None:
        self._declare("metric", name, target, summary)

    def _declare(self, kind: Kind, name: str, target: str, summary: str) -> None:
        if not name or "/" in name:
            raise PluginError(
                f"{kind} name {name!r} of plugin '{self._origin.namespace}' must not be empty or hold '/'"
            )
        if target.count(":") != 1:
            raise PluginError(f"{kind} '{name}': the target must read 'package.module:Class', not {target!r}")
        self._registry.add(Component(kind, name, target, summary, self._origin))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)
