"""A component in a configuration: its name, and its options, validated against its signature."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from kgen.config.source import Source
from kgen.contracts.capabilities import Capability, guides, option_of, value_of
from kgen.contracts.likelihood import check_likelihood
from kgen.errors import ConfigError, PluginError
from kgen.options import plain
from kgen.options.renamed import rename_keys
from kgen.options.validation import KeyPath, check, model_of, show
from kgen.plugins.discovery import registry
from kgen.plugins.registry import CONTRACTS, Kind, imported

PARTS: dict[str, Kind] = {"data": "dataset", "encoder": "encoder", "generator": "generator", "decoder": "decoder"}
"""The keys of a run file that hold one component each."""

JOINT = "kgen/joint"
"""The encoder that joins others. A run file may write it as a list."""

DEFAULTS: dict[str, str | None] = {"data": None, "encoder": None, "generator": None, "decoder": "identity"}
"""The default values of these keys; None: the key is required."""

TRAINED = ("", "encoder.", "decoder.")
"""The beginnings of the dotted keys of the trainings: that of the generator, and those of parts that have a stage."""

OPTIMIZERS: dict[str, str | None] = {f"{part}fit.optimizer": "kgen/adamw" for part in TRAINED}
"""The defaults of the optimizers, by the dotted key."""


class ComponentConfig(pydantic.BaseModel):
    """A component's full id and all its options, as plain data."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = {}

    @property
    def choice(self) -> dict[str, Any]:
        """The mapping that the functions of `kgen.parts.construction` accept."""
        return {"name": self.name, **self.options}

    @property
    def joined(self) -> list[ComponentConfig]:
        """The encoders that a joint encoder joins, including nested ones; empty for other components."""
        members = self.options.get("encoders", []) if self.name == JOINT else []
        own = [ComponentConfig(name=m["name"], options={k: v for k, v in m.items() if k != "name"}) for m in members]
        return [found for member in own for found in (member, *member.joined)]

    @property
    def shows_null(self) -> bool:
        """Whether training shows the null condition, because each encoder of a joint has a dropout."""
        members = self.options.get("encoders", []) if self.name == JOINT else []
        return bool(members) and all(member.get("condition_dropout") for member in members)

    def dump(self) -> dict[str, Any]:
        """The plain data for a run file."""
        return self.choice


def resolve(source: Source, path: KeyPath, kind: Kind, value: Any) -> tuple[ComponentConfig, type[Any] | None]:
    """Looks up a component, validates its options and fills in defaults. Reports problems to `source`.

    Returns:
        The component (or a placeholder, if there is a problem) and its class, if it could be imported.
    """
    nothing = ComponentConfig(name="?")
    given = {"name": value} if isinstance(value, str) else value
    several = kind == "encoder" and isinstance(given, list)
    if several:
        given = {"name": JOINT, "encoders": given}
    elif kind == "encoder" and isinstance(given, dict) and "encoders" in given:
        given = {"name": JOINT, **given}
    if not isinstance(given, dict):
        source.report(path, f"must be the name of one {kind}, or a mapping with 'name' and options, got {show(value)}")
        return nothing, None
    options = {key: option for key, option in given.items() if key != "name"}
    if not isinstance(name := given.get("name"), str):
        wrong = f"must be text, got {show(name)}" if "name" in given else f"needs 'name', one of {_names(kind)}"
        source.report((*path, "name") if "name" in given else path, wrong)
        return nothing, None
    try:
        component = registry().find(kind, name)
        cls = component.load()
        model = model_of(cls, component.id)
    except (ConfigError, PluginError) as error:
        source.report(path, str(error))
        return nothing, None
    rename_keys(options, getattr(cls, "renamed", {}), component.id)
    checked, problems = check(model, options, component.id)
    for below, message in problems:
        source.report((*path, *(below[1:] if several else below)), message)
    if checked is None:
        return nothing, cls
    resolved = {key: plain(getattr(checked, key)) for key in type(checked).model_fields}
    return ComponentConfig(name=component.id, options=resolved), cls


def resolve_all(source: Source, path: KeyPath, kind: Kind, values: list[Any]) -> list[dict[str, Any]]:
    """Resolves each item of a list, and returns the components as plain data."""
    return [resolve(source, (*path, number), kind, value)[0].model_dump() for number, value in enumerate(values)]


def report_twice(source: Source, path: KeyPath, found: list[dict[str, Any]]) -> None:
    """Reports the items of a resolved list that name the same component as an earlier item."""
    names = [component["name"] for component in found]
    for number, name in enumerate(names):
        if name in names[:number] and name != "?":
            source.report((*path, number), f"'{name}' is given twice: keep one")


def check_sampling(
    source: Source, path: KeyPath, options: Any, generator: type[Any] | None, decoder: type[Any] | None
) -> None:
    """Validates the options of a generator's `generate`, and under "decoder" those of a decoder's `decode`.

    Args:
        source: The configuration, which receives the problems.
        path: The path of `options` in it.
        options: The options.
        generator, decoder: The classes; None: unknown, so that nothing is checked.
    """
    if not isinstance(options, dict):
        source.report(path, f"must be a mapping, got {show(options)}")
        return
    own = {key: value for key, value in options.items() if key != "decoder"}
    parts: list[tuple[type[Any] | None, Literal["generate", "decode"], Any, KeyPath]] = [
        (generator, "generate", own, path),
        (decoder, "decode", options.get("decoder", {}), (*path, "decoder")),
    ]
    for cls, method, given, place in parts:
        if cls is not None:
            check_method(source, place, given, cls, method)


def check_method(
    source: Source, path: KeyPath, given: Any, cls: type[Any], method: Literal["generate", "decode"]
) -> None:
    """Validates the options, at `path`, of a method of a component."""
    if not isinstance(given, dict):
        source.report(path, f"must be a mapping, got {show(given)}")
        return
    owner = f"{cls.__name__}.{method}"
    if getattr(cls, method) is getattr(imported(CONTRACTS["generator" if method == "generate" else "decoder"]), method):
        source.report(path, f"{cls.__name__} does not define '{method}'")
        return
    rename_keys(given, cls.renamed, owner)
    strength = option_of(getattr(cls, method), Capability.STRENGTH)
    if strength is not None and strength in given:
        source.report((*path, strength), "needs an image to start from: kgen generate RUN --image FILE")
        return
    for below, message in check(model_of(getattr(cls, method), owner), given, owner)[1]:
        source.report((*path, *below), message)


def check_no_guidance(source: Source, path: KeyPath, options: Any, generator: type[Any] | None) -> None:
    """Refuses guidance among the options of `generate`, at `path`, if training never uses the empty text."""
    if generator is None or not isinstance(options, dict) or not guides(generator.generate, options):
        return
    weight = value_of(generator.generate, Capability.GUIDANCE, options)
    source.report(
        (*path, str(option_of(generator.generate, Capability.GUIDANCE))),
        f"{show(weight)} compares with the empty text, which training never uses if condition_dropout is 0: give a "
        "condition_dropout, such as 0.1, or leave guidance out",
    )


def check_likelihood_options(
    source: Source, path: KeyPath, given: dict[str, Any], generator: type[Any] | None, decoder: type[Any] | None
) -> None:
    """Checks, if a likelihood is to be measured, that there is one, and validates the options of `log_likelihood`."""
    if not given.get("images") or generator is None or decoder is None:
        return
    try:
        check_likelihood(generator, decoder)
    except ConfigError as error:
        source.report(path, f"{error}: leave this out")
        return
    if isinstance(options := given.get("options", {}), dict):
        owner = f"{generator.__name__}.log_likelihood"
        rename_keys(options, generator.renamed, owner)
        for below, message in check(model_of(generator.log_likelihood, owner), options, owner)[1]:
            source.report((*path, "options", *below), message)


def _names(kind: Kind) -> str:
    return ", ".join(f"'{component.id}'" for component in registry().of_kind(kind))
