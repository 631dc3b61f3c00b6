"""Which components exist: (kind, full id) -> declaration. Imports nothing that it declares."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kgen.errors import ConfigError, KgenError, PluginError
from kgen.plugins.isolation import isolated

Kind = Literal["encoder", "generator", "decoder", "dataset", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONTRACTS: dict[Kind, str] = {kind: f"kgen.contracts.{kind}:{kind.capitalize()}" for kind in KINDS}
"""The classes that components of each kind are subclasses of."""

PREFIX = "kgen-plugin-"
"""The distribution that owns a namespace is named kgen-plugin-NAMESPACE."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""The form of a component's name, and of a plugin's namespace."""


@dataclass(frozen=True)
class Provenance:
    """Where a plugin comes from: its namespace and the distribution (name, version) that brought it."""

    namespace: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin '{self.namespace}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Component:
    """The declaration of one component; `load` imports its class. As a text, it names its distribution too."""

    kind: Kind
    name: str
    target: str
    summary: str
    origin: Provenance

    @property
    def id(self) -> str:
        return f"{self.origin.namespace}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} '{self.id}' of {self.origin.distribution} {self.origin.version}"

    @property
    def loaded(self) -> Any:
        """The class, if its module is imported already; else None."""
        module, _, attribute = self.target.partition(":")
        return getattr(sys.modules.get(module), attribute, None)

    def load(self) -> type[Any]:
        """Imports the class. Raises PluginError, with the reason, where that fails or it is no class of this kind."""
        module, _, attribute = self.target.partition(":")
        contract, _, base = CONTRACTS[self.kind].partition(":")
        try:
            with isolated(str(self)):
                cls = getattr(importlib.import_module(module), attribute)
        except KgenError as error:
            raise PluginError(f"{self} cannot be imported from '{self.target}': {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, getattr(importlib.import_module(contract), base))):
            raise PluginError(f"{self}: {self.target} is no subclass of kgen.{base}")
        return cls


@dataclass
class Registry:
    """All declarations, and the reasons of the plugins that could not be loaded (`broken`); of these, some are
    `incompatible`: they were written for another contract.
    """

    components: dict[tuple[Kind, str], Component] = field(default_factory=dict)
    broken: dict[Provenance, str] = field(default_factory=dict)
    incompatible: set[Provenance] = field(default_factory=set)

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
        namespace, slash, _ = name.rpartition("/")
        names = {n for c in self.of_kind(kind) for n in (c.id, c.name)}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        if near:
            hint = f": did you mean {_quoted(near)}?"
        else:
            hint = f": there are {_quoted(c.id for c in self.of_kind(kind)) or 'none'}"
        suspects = [o for o in self.broken if o.namespace == namespace or not (slash or near)]
        for origin in suspects:
            why = self.broken[origin]
            hint += f"; plugin '{origin.namespace}' ({origin.distribution}) could not be loaded: {why}"
        installed = {component.origin.namespace for component in self.components.values()}
        if NAME.fullmatch(namespace) and namespace not in installed and not suspects:
            hint += f"; no plugin '{namespace}' is installed: pip install {PREFIX}{namespace}"
        return hint


class Registrar:
    """Takes the declarations of one plugin, and files them under its namespace.

    Each method takes the same arguments:
        name: Of the component in run files, "myplugin/NAME": letters, digits and ``._+-``.
        target: Where its class is, as "package.module:Class". It is imported when the component is used, not before.
        summary: One line for `kgen plugins list`.

    Each raises `PluginError` where an argument is not in order, or the name is taken by this plugin already: the plugin
    is then listed as broken, with the reason, and none of its components can be used.
    """

    def __init__(self, registry: Registry, origin: Provenance) -> None:
        self._registry = registry
        self._origin = origin

    def encoder(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Encoder`; the arguments are those of every kind, see `Registrar`."""
        self._declare("encoder", name, target, summary)

    def generator(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Generator`; the arguments are those of every kind, see `Registrar`."""
        self._declare("generator", name, target, summary)

    def decoder(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Decoder`; the arguments are those of every kind, see `Registrar`."""
        self._declare("decoder", name, target, summary)

    def dataset(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Dataset`; the arguments are those of every kind, see `Registrar`."""
        self._declare("dataset", name, target, summary)

    def metric(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Metric`; the arguments are those of every kind, see `Registrar`."""
        self._declare("metric", name, target, summary)

    def _declare(self, kind: Kind, name: str, target: str, summary: str) -> None:
        """Files one declaration. Raises PluginError where it is not in order."""
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise PluginError(
                f"{kind} name {name!r} of plugin '{self._origin.namespace}' must be letters, digits and '._+-', "
                "and begin with a letter or digit"
            )
        if not (isinstance(target, str) and target.count(":") == 1):
            raise PluginError(f"{kind} '{name}': the target must read 'package.module:Class', not {target!r}")
        if not (isinstance(summary, str) and summary.isprintable()):
            raise PluginError(f"{kind} '{name}': the summary must be one line of text, not {summary!r}")
        self._registry.add(Component(kind, name, target, summary, self._origin))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)
