"""An encoder or decoder in a configuration: the component, and its training in a stage before the generator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import pydantic

from kgen.config.components import JOINT, ComponentConfig, resolve
from kgen.config.fit import resolve_fit
from kgen.config.sections import FitConfig, InitConfig, as_sources
from kgen.config.source import Source, read_file
from kgen.errors import ConfigError, KgenError
from kgen.options.validation import KeyPath, show
from kgen.plugins.discovery import registry

Staged = Literal["encoder", "decoder"]
"""The parts that can be trained in a separate stage."""

STAGED: tuple[Staged, ...] = ("encoder", "decoder")
"""These parts, in the order of their stages."""

STAGE_KEYS = ("fit", "data", "init", "from")
"""The keys of these parts in a run file that are not options of the component."""


class StagedConfig(ComponentConfig):
    """The full id of an encoder or decoder, its options, and the settings of its training stage."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fit: FitConfig | None = None
    """Settings of the part's training, before the generator's."""
    data: ComponentConfig | None = None
    """Dataset of the part's training; null: the run's data."""
    init: tuple[InitConfig, ...] = ()
    """Weights with which the part's training starts; null: random weights."""
    source: str | None = pydantic.Field(None, alias="from")
    """Another run, whose trained part is used."""

    def dump(self) -> dict[str, Any]:
        stage = {
            "fit": self.fit and self.fit.dump(),
            "data": self.data and self.data.dump(),
            "init": [source.dump() for source in self.init] or None,
            "from": self.source,
        }
        return {**super().dump(), **{key: value for key, value in stage.items() if value is not None}}


def resolve_staged(source: Source, path: KeyPath, kind: Staged, value: Any) -> tuple[dict[str, Any], type[Any] | None]:
    """Resolves an encoder or decoder like `resolve`, with the keys of its stage.

    `from: RUN` alone stands for the part of that run. If an encoder uses the weights of another class (`trained_as`),
    and only its name is given, its options are also those of that run.

    Returns:
        The data of a `StagedConfig`, and the class, if it is known. Only the components of its `fit` have been
        validated; the other keys of `fit` have not.
    """
    given, untrained = dict(value) if isinstance(value, dict) else value, False
    stage = {key: given.pop(key) for key in STAGE_KEYS if isinstance(given, dict) and given.get(key) is not None}
    if isinstance(given, dict) and "from" in stage and _takes_options(kind, given):
        if unnamed := [key for key in given if key != "name"]:
            source.report(path, f"'from' takes the other run's options: leave out {', '.join(map(show, unnamed))}")
        other = _part_of(source, (*path, "from"), kind, stage["from"])
        if other is None:
            return ComponentConfig(name="?").model_dump(), None
        untrained = not {"fit", "from"} & set(other)
        name = given.get("name", other.get("name"))
        if wanted := _missing_class(kind, name, other.get("name")):
            has = f"{stage['from']} has '{other.get('name')}'"
            uses = f"{kind} '{name}' uses the weights of a trained '{wanted}'"
            source.report((*path, "from"), f"{uses}, but {has}: choose another run")
            return ComponentConfig(name="?").model_dump(), None
        given = {key: option for key, option in other.items() if key not in STAGE_KEYS} | {"name": name}
    component, cls = resolve(source, path, kind, given)
    if cls is not None:
        _Check(source, path, kind, component, cls, stage).run(untrained)
    if "init" in stage:
        stage["init"] = as_sources(stage["init"])
    if "data" in stage:
        stage["data"] = resolve(source, (*path, "data"), "dataset", stage["data"])[0].model_dump()
    if "fit" in stage:
        stage["fit"] = resolve_fit(source, (*path, "fit"), stage["fit"])
        if isinstance(stage["fit"], dict) and isinstance(stage["fit"].get("ema"), dict):
            source.report(
                (*path, "fit", "ema"), f"must be a decay or null: 'kgen average' makes no average of {_a(kind)}"
            )
    return {**component.model_dump(), **stage}, cls


class _Check:
    """Reports keys of a stage that are missing, and keys that have no effect on this part.

    Args:
        source: The configuration, which receives the problems.
        path: The path of the part in it.
        kind: The kind of the part.
        component: The part without its stage.
        cls: The class of the part.
        stage: The keys of the stage.
    """

    def __init__(
        self,
        source: Source,
        path: KeyPath,
        kind: Staged,
        component: ComponentConfig,
        cls: type[Any],
        stage: dict[str, Any],
    ) -> None:
        self.source, self.path, self.kind, self.stage = source, path, kind, stage
        self.component, self.cls = component, cls

    def run(self, untrained: bool) -> None:
        """Reports the first problem.

        Args:
            untrained: Whether it is the part of another run whose configuration has neither `fit` nor `from`.
        """
        kind, name, stage = self.kind, self.component.name, self.stage
        has_losses, learns, trained_as = learning_of(kind, self.cls)
        if "fit" in stage and "from" in stage:
            self._report("fit", f"{_a(kind)} 'from' another run is already trained: leave out one of the two")
        elif self.cls.is_pretrained(self.component.options):
            self._check_pretrained(has_losses)
        elif untrained and (has_losses or not learns):
            self._report("from", f"{stage['from']} has trained no {kind}: look at {kind} in its config.yaml")
        elif trained_as and "from" not in stage:
            key = next(iter(stage), None)
            self._report(key, f"{kind} '{name}' uses the weights of a trained '{trained_as}': set 'from: RUN'")
        elif stage and not learns and not trained_as:
            key = next(iter(stage))
            alone = " in a stage of its own" if kind == "encoder" else ""  # it is trained with the generator
            self._report(key, f"{kind} '{name}' has nothing to train{alone}: leave '{key}' out")
        elif not has_losses and "fit" in stage:
            self._report("fit", f"{kind} '{name}' has no losses to train by, and is only calibrated: leave 'fit' out")
        elif has_losses and not {"fit", "from"} & set(stage):
            self._report(
                None, f"{kind} '{name}' must be trained: set 'fit: {{steps: ...}}', or 'from: RUN' to use a trained one"
            )
        elif "data" in stage and "from" in stage:
            self._report("data", f"{_a(kind)} 'from' another run is already trained: leave out one of the two")
        elif "init" in stage and "fit" not in stage:
            self._report("init", "has no effect without 'fit': leave 'init' out")
        self._check_joined()

    def _check_pretrained(self, has_losses: bool) -> None:
        """Reports a key of a stage that has no meaning for a part whose weights come from files."""
        allowed = {"fit", "data"} if has_losses and "fit" in self.stage else {"from"}
        if odd := [key for key in self.stage if key not in allowed]:
            self._report(
                odd[0],
                f"{self.kind} '{self.component.name}' has the weights of the files that it names: leave this out",
            )

    def _check_joined(self) -> None:
        """Refuses a joined encoder that must be trained in a stage, because joined encoders have none."""
        for joined in self.component.joined:
            cls = registry().find("encoder", joined.name).load()
            if joined.name != JOINT and any(learning_of("encoder", cls)) and not cls.is_pretrained(joined.options):
                self._report(
                    None,
                    f"'{joined.name}' must be trained in a stage of its own, which joined encoders do not have: use "
                    "it alone, or join other encoders",
                )

    def _report(self, key: str | None, message: str) -> None:
        self.source.report(self.path if key is None else (*self.path, key), message)


class Learning(NamedTuple):
    """What a class of encoders or decoders learns in a stage.

    Attributes:
        has_losses: Whether the stage trains it by losses, with the settings of `fit`.
        learns: Whether the stage trains it by losses, or calibrates it on images.
        trained_as: The name of the class in whose stage its weights are trained; "": it has its own weights.
    """

    has_losses: bool
    learns: bool
    trained_as: str = ""


def learning_of(kind: Staged, cls: type[Any]) -> Learning:
    """What a class learns in a stage."""
    from kgen.contracts import decoder, encoder

    if kind == "decoder":
        return Learning(decoder.has_losses(cls), decoder.learns_from_images(cls))
    has_losses = encoder.has_losses(cls)
    return Learning(has_losses, has_losses, "" if cls.trained_as is None else cls.trained_as.__name__)


def _takes_options(kind: Staged, given: dict[str, Any]) -> bool:
    """Whether a part, given without the keys of its stage, has the options of the run that it comes from."""
    if "name" not in given:
        return True
    if kind == "decoder" or given.keys() != {"name"}:
        return False
    try:
        return bool(learning_of(kind, registry().find(kind, given["name"]).load()).trained_as)
    except KgenError:
        return False


def _missing_class(kind: Staged, name: Any, other: Any) -> str:
    """The name of the class whose weights a part uses (`trained_as`), if the part of the other run is not of it."""
    if kind == "decoder" or not (isinstance(name, str) and isinstance(other, str)):
        return ""
    try:
        cls, there = (registry().find(kind, choice).load() for choice in (name, other))
    except KgenError:
        return ""
    trained_as = cls.trained_as
    return "" if trained_as is None or issubclass(there, trained_as) else str(trained_as.__name__)


def _part_of(source: Source, path: KeyPath, kind: Staged, run: Any) -> dict[str, Any] | None:
    """The part in the configuration of another run, with the keys of its stage."""
    if not isinstance(run, str):
        source.report(path, f"must be a run directory, got {show(run)}")
        return None
    try:
        found = read_file(Path(run) / "config.yaml").data.get(kind)
    except ConfigError:
        source.report(path, f"{run} is not a run directory: give one that 'kgen run' made")
        return None
    if not isinstance(found, dict | str):
        source.report(path, f"{run} has trained no {kind}: look at {kind} in its config.yaml")
        return None
    return {"name": found} if isinstance(found, str) else dict(found)


def _a(kind: Staged) -> str:
    return f"an {kind}" if kind == "encoder" else f"a {kind}"
