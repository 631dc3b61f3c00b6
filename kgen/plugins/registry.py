"""The registry of kinds and of components: (kind, full id) -> declaration.

A component is imported only when it is used.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from kgen.errors import ConfigError, KgenError, PluginError
from kgen.plugins.fit import misfit, wrong_arguments
from kgen.plugins.isolation import isolated

Kind = Literal["encoder", "generator", "decoder", "dataset", "metric", "optimizer", "callback", "logger"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OF_KERAS: dict[Kind, tuple[str, str]] = {
    "optimizer": ("keras.optimizers:Optimizer", "learning_rate"),
    "callback": ("keras.callbacks:Callback", "directory"),
}
"""The kinds whose base class is Keras's, with the argument of the constructor that kgen supplies."""

CONTRACTS: dict[Kind, str] = {
    kind: OF_KERAS[kind][0] if kind in OF_KERAS else f"kgen.contracts.{kind}:{kind.capitalize()}" for kind in KINDS
}
"""The base class of the components of each kind. Plugins declare further kinds: see `DeclaredKind`."""

PREFIX = "kgen-plugin-"
"""The distribution that owns a namespace is named kgen-plugin-NAMESPACE."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""The form of a component's name, and of a plugin's namespace."""

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""The form of a kind's name after the namespace of its plugin: "sampler" of "myplugin.sampler"."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a plugin: its namespace, and the name and version of its distribution."""

    namespace: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin '{self.namespace}' of {self.release}"

    @property
    def release(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class DeclaredKind:
    """A kind that a plugin declares, such as "myplugin.sampler". Every plugin may contribute to it.

    Args:
        name: The plugin's namespace, a dot, and a name.
        contract: The import path, "package.module:Name", of the contract of its components: see `kgen.plugins.fit`.
        summary: One line.
        origin: The plugin that declares the kind.
    """

    name: str
    contract: str
    summary: str
    origin: Provenance


@dataclass(frozen=True)
class Component:
    """The declaration of a component; `load` imports it. `str` also names its distribution.

    Args:
        kind: The kind of the component.
        name: The name without the namespace.
        target: The import path of the component, "package.module:Name".
        summary: One line.
        origin: The plugin that declares it.
        contract: The contract of the kind, if a plugin declares that kind.
    """

    kind: str
    name: str
    target: str
    summary: str
    origin: Provenance
    contract: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        return f"{self.origin.namespace}/{self.name}"

    @property
    def short(self) -> str:
        """The name in a saved configuration: without the namespace if the same plugin declares the kind."""
        return self.name if self.kind.rpartition(".")[0] == self.origin.namespace else self.id

    def __str__(self) -> str:
        return f"{self.kind} '{self.id}' of {self.origin.release}"

    @property
    def loaded(self) -> Any:
        """The class, if its module has been imported; else None."""
        module, _, attribute = self.target.partition(":")
        return getattr(sys.modules.get(module), attribute, None)

    def load(self) -> Any:
        """Imports the class. In a kind that a plugin declares, it may also be a function or another object.

        Raises:
            PluginError: the import failed, or the object does not fit the kind; the message gives the reason.
        """
        try:
            with isolated(str(self)):
                target = imported(self.target)
        except KgenError as error:
            raise PluginError(f"{self} cannot be imported from '{self.target}': {error}") from error
        if self.kind in KINDS:
            path = CONTRACTS[self.kind]
            name = path.replace(":", ".") if self.kind in OF_KERAS else f"kgen.{path.partition(':')[2]}"
            reason = (
                misfit(target, imported(path), name) if isinstance(target, type) else f"is not a subclass of {name}"
            )
            if not reason and self.kind in OF_KERAS:
                reason = wrong_arguments(target, OF_KERAS[self.kind][1])
        else:
            reason = misfit(target, imported(self.contract), self.contract.partition(":")[2])
        if reason:
            raise PluginError(f"{self}: {self.target} {reason}")
        return target


@dataclass
class Registry:
    """All declarations of components and kinds.

    `broken` holds the plugins that could not be loaded, with the reasons. Those of them that were written for another
    contract are also in `incompatible`. `refused` holds single components that cannot be used, with the reasons.
    """

    components: dict[tuple[str, str], Component] = field(default_factory=dict)
    kinds: dict[str, DeclaredKind] = field(default_factory=dict)
    refused: dict[Component, str] = field(default_factory=dict)
    broken: dict[Provenance, str] = field(default_factory=dict)
    incompatible: set[Provenance] = field(default_factory=set)
    plugins: dict[Provenance, Any] = field(default_factory=dict)
    """The modules or objects that implement the hooks, for all loaded plugins."""

    def add(self, component: Component) -> None:
        key = (component.kind, component.id)
        if key in self.components:
            raise PluginError(f"{component.kind} '{component.id}' is registered twice: keep one of the two")
        self.components[key] = component

    def settle(self) -> None:
        """Refuses components that cannot be used. Call it after all plugins, so that their order has no effect."""
        for key, component in list(self.components.items()):
            if component.kind in KINDS:
                continue
            if reason := self._misplaced(component):
                del self.components[key]
                self.refused[component] = reason
            else:
                self.components[key] = replace(component, contract=self.kinds[component.kind].contract)

    def _misplaced(self, component: Component) -> str:
        """Says why a component cannot be in its kind; "" if it can."""
        namespace = component.kind.rpartition(".")[0]
        if component.kind not in self.kinds:
            return self.no_kind(component.kind)
        own = self.components.get((component.kind, f"{namespace}/{component.name}"))
        if own is not None and own.id != component.id:
            return f"its name is that of {own}: rename it"
        return ""

    def no_kind(self, kind: str) -> str:
        """The message about a kind that no plugin declares."""
        namespace = kind.rpartition(".")[0]
        near = difflib.get_close_matches(kind, [*KINDS, *self.kinds], n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        for origin in (origin for origin in self.broken if origin.namespace == namespace):
            hint += f"; plugin '{namespace}' ({origin.release}) could not be loaded: {self.broken[origin]}"
        declared = [found for found in self.kinds.values() if found.origin.namespace == namespace]
        if declared:
            hint += f"; {declared[0].origin.release} declares {quoted(sorted(found.name for found in declared))}"
        elif not hint and namespace not in {c.origin.namespace for c in self.components.values()}:
            hint = f": plugin '{namespace}' would declare it: pip install {PREFIX}{namespace}"
        return f"no plugin declares the kind '{kind}'{hint}"

    def of_kind(self, kind: str) -> list[Component]:
        return sorted((c for c in self.components.values() if c.kind == kind), key=lambda c: c.id)

    def of_class(self, cls: Any) -> Component | None:
        """The declaration of a class or of another object; None if no plugin has registered it."""
        return next((component for component in self.components.values() if component.loaded is cls), None)

    def find(self, kind: str, name: str) -> Component:
        """Looks up a full id ("plugin/name"), or a name without the namespace if it is unique.

        Raises:
            ConfigError: the name is ambiguous or unknown. The message suggests similar names, and names a broken
                plugin of that namespace.
        """
        if found := self.components.get((kind, name)):
            return found
        matches = [c for c in self.of_kind(kind) if c.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            rivals = ", ".join(f"'{c.id}' (of {c.origin.distribution})" for c in matches)
            raise ConfigError(f"{kind} '{name}' is ambiguous: write one of {rivals}")
        raise ConfigError(f"unknown {kind} '{name}'{self._hint(kind, name)}")

    def similar(self, name: str) -> str:
        """The end of a message about a name that is none of a component, a kind or a plugin."""
        parts = self.components.values()
        names = {*self.kinds, *(known for c in parts for known in (c.id, c.name, c.origin.namespace))}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        return f": did you mean {quoted(near)}?" if near else ": see 'kgen plugins list'"

    def _hint(self, kind: str, name: str) -> str:
        namespace, slash, _ = name.rpartition("/")
        names = {n for c in self.of_kind(kind) for n in (c.id, c.name)}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        if slash and (broken := [origin for origin in self.broken if origin.namespace == namespace]):
            return "".join(f": {self._not_loaded(origin)}" for origin in broken)
        if near:
            hint = f": did you mean {quoted(near)}?"
        else:
            hint = f": there are {quoted(c.short for c in self.of_kind(kind)) or 'none'}"
        for refused, why in self.refused.items():
            if refused.kind == kind and name in (refused.id, refused.name):
                hint += f"; {refused} is refused: {why}"
        suspects = [] if slash or near else list(self.broken)
        hint += "".join(f"; {self._not_loaded(origin)}" for origin in suspects)
        installed = {component.origin.namespace for component in self.components.values()}
        if NAME.fullmatch(namespace) and namespace not in installed and not suspects:
            hint += f"; no plugin '{namespace}' is installed: pip install {PREFIX}{namespace}"
        return hint

    def _not_loaded(self, origin: Provenance) -> str:
        """Says why a plugin is in `broken`."""
        return f"plugin '{origin.namespace}' ({origin.distribution}) could not be loaded: {self.broken[origin]}"


def imported(path: str) -> Any:
    """Imports the object at "package.module:Name"."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registrar:
    """Receives the declarations of one plugin, and registers them under its namespace.

    The methods that declare a component take the same arguments:
        name: The name of the component in run files, "myplugin/NAME": letters, digits and ``._+-``.
        target: The import path of its class, "package.module:Class". It is imported when the component is used, not
            before.
        summary: One line for `kgen plugins list`.

    `kind` declares a new kind. All methods raise `PluginError` if an argument is wrong, or if the plugin has already
    used the name. The plugin is then listed as broken, with the reason, and none of its components can be used.
    """

    def __init__(self, registry: Registry, origin: Provenance) -> None:
        self._registry = registry
        self._origin = origin

    def kind(self, name: str, contract: str, *, summary: str) -> None:
        """Declares a kind of components, to which every plugin can contribute by `add`.

        Args:
            name: "myplugin.KIND": the plugin's namespace, a dot, and letters, digits, ``_`` and ``-``.
            contract: The import path, "package.module:Name", of the contract of its components: a base class; a
                protocol; or a function, whose arguments they must accept. If its package has a folder
                `templates/KIND`, `kgen plugins new --kind myplugin.KIND` starts from it: see `kgen.authoring.package`.
            summary: One line for `kgen plugins show myplugin`.
        """
        own, namespace = str(name).removeprefix(f"{self._origin.namespace}."), self._origin.namespace
        if not isinstance(name, str) or own == name or not PART.fullmatch(own):
            raise PluginError(f"kind {name!r} of plugin '{namespace}' must be named '{namespace}.KIND'")
        if name in self._registry.kinds:
            raise PluginError(f"kind '{name}' is declared twice: keep one of the two")
        check_path(f"kind '{name}': the contract", contract)
        check_summary(f"kind '{name}'", summary)
        self._registry.kinds[name] = DeclaredKind(name, contract, summary, self._origin)

    def add(self, kind: str, name: str, target: str, *, summary: str) -> None:
        """Declares a component of any kind. For the arguments after `kind`, see `Registrar`.

        Args:
            kind: A kind of kgen ("encoder", "generator", "decoder", "dataset", "metric", "optimizer", "callback",
                "logger"), or a kind that any plugin declares ("myplugin.sampler"). In the latter, the target may also
                be a function or another object, which has no options.
        """
        if not isinstance(kind, str) or (kind not in KINDS and "." not in kind):
            near = difflib.get_close_matches(str(kind), KINDS, n=1)
            hint = f": did you mean '{near[0]}'?" if near else f": there are {quoted(KINDS)}, and those of plugins"
            raise PluginError(f"there is no kind {kind!r}{hint}")
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise PluginError(
                f"{kind} name {name!r} of plugin '{self._origin.namespace}' must be letters, digits and '._+-', "
                "and begin with a letter or digit"
            )
        check_path(f"{kind} '{name}': the target", target)
        check_summary(f"{kind} '{name}'", summary)
        self._registry.add(Component(kind, name, target, summary, self._origin))

    def encoder(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Encoder`. For the arguments, see `Registrar`."""
        self.add("encoder", name, target, summary=summary)

    def generator(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Generator`. For the arguments, see `Registrar`."""
        self.add("generator", name, target, summary=summary)

    def decoder(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Decoder`. For the arguments, see `Registrar`."""
        self.add("decoder", name, target, summary=summary)

    def dataset(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Dataset`. For the arguments, see `Registrar`."""
        self.add("dataset", name, target, summary=summary)

    def metric(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Metric`. For the arguments, see `Registrar`."""
        self.add("metric", name, target, summary=summary)

    def optimizer(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `keras.optimizers.Optimizer`. For the arguments, see `Registrar`.

        The constructor takes `learning_rate` (a number or a schedule) first, and options after a ``*``. The class makes
        its steps in `update_step`. kgen clips the gradients and averages the weights.
        """
        self.add("optimizer", name, target, summary=summary)

    def callback(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `keras.callbacks.Callback`. For the arguments, see `Registrar`.

        The constructor takes options after a ``*``. If it has an argument `directory` before the ``*``, kgen supplies
        the directory of the training, a `pathlib.Path`, in which the callback may write its own files.
        `kgen.contracts.callback` says when a callback is called.
        """
        self.add("callback", name, target, summary=summary)

    def logger(self, name: str, target: str, *, summary: str) -> None:
        """Declares a subclass of `kgen.Logger`. For the arguments, see `Registrar`."""
        self.add("logger", name, target, summary=summary)


def check_path(what: str, path: Any) -> None:
    if not (isinstance(path, str) and path.count(":") == 1):
        raise PluginError(f"{what} must read 'package.module:Class', not {path!r}")


def check_summary(what: str, summary: Any) -> None:
    if not (isinstance(summary, str) and summary.isprintable()):
        raise PluginError(f"{what}: the summary must be one line of text, not {summary!r}")


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)
