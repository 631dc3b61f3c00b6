"""The study: the run of a sweep, the settings that it varies, and the numbers that it measures."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field

from kgen.config import RunConfig
from kgen.config.changes import affects_training
from kgen.config.overrides import Setting
from kgen.config.sections import Section
from kgen.config.shipped import find_run_file
from kgen.config.source import Origin, Source, read_file
from kgen.errors import ConfigError, KgenError, RunError
from kgen.evaluation.results import BITS
from kgen.experiments.directory import RunDirectory
from kgen.options import check, options
from kgen.options.validation import KeyPath, show
from kgen.plugins.discovery import registry
from kgen.sweeps.axes import (
    Axis,
    Value,
    find_axis,
    key_axis,
    overwritten,
    plain_axes,
    short_names,
    slug,
    text_of,
    variable_axis,
)
from kgen.sweeps.references import OWN_RUN, find_references, with_variables

OWNER = "a study"

SAMPLING = "sample.options"
"""The section of a run file whose keys may be written alone: "guidance" for "sample.options.guidance"."""

COLUMNS = ("trial", "metric", "split", "name", "evaluation_seed", "value", "fingerprint")
"""The columns of the table for programs, besides the axes."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
Settings = dict[str, Any]


class PlotConfig(Section):
    """The settings of a plot, or of several plots with the same horizontal axis."""

    x: str | None = None
    """The horizontal axis: an axis of the study, or a number, "frechet distance"; null: the last numeric axis."""
    y: tuple[str, ...] | None = None
    """The numbers to plot, one plot for each; null: the main number of each metric."""
    line: tuple[str, ...] | None = None
    """The axes whose values share a line; null: all other axes."""
    label: str | None = None
    """The axis whose values are written at the points; null: no texts, or the last axis if `x` is a number."""
    log: bool = False
    """Whether the horizontal axis is logarithmic."""


class StudyFile(Section):
    """The content of a study file."""

    model_config = pydantic.ConfigDict(populate_by_name=False)

    run: str | dict[str, Any]
    """A run file, relative to the study file, or one that kgen ships; its content; or the directory of a trained run,
    which is then only evaluated."""
    settings: Settings = Field(default_factory=dict, alias="set")
    """Keys of the run file to change in all trials."""
    over: Annotated[dict[str, list[Any] | dict[str, Settings]], Field(min_length=1)]
    """The axes: a key of the run file with a list of values; a name with a mapping of names to keys and values; or a
    variable with a list of values, for which {NAME} stands in the values of such a mapping."""
    runs: dict[FileName, Settings] = Field(default_factory=dict)
    """Runs to be trained first, by name, each with the keys that it changes. A value refers to one by {runs}/NAME."""
    metrics: Annotated[list[Any], Field(min_length=1)] | None = None
    """Metrics that replace those of the run. The likelihood is then measured only if `evaluate` says so."""
    evaluate: Settings = Field(default_factory=dict)
    """Keys of the section `evaluate` to change, such as `images` and `seeds`."""
    plot: Annotated[tuple[PlotConfig, ...], Field(min_length=1)] = (PlotConfig(),)
    """The plots: a mapping, or a list of mappings."""


@dataclass(frozen=True)
class Base:
    """The run of which all trials are variants.

    Args:
        source: Its run file.
        name: Its name.
        directory: The run directory, if the run is trained already. The trials are then only evaluations.
    """

    source: Source
    name: str
    directory: Path | None = None


@dataclass(frozen=True)
class Study:
    """A checked study.

    Args:
        name: The name, for the folder.
        base: The run of which all trials are variants.
        settings: The keys that all trials change.
        axes: What differs between the trials.
        runs: The keys that each run to be trained first changes, by its name.
        plots: The settings of the plots.
    """

    name: str
    base: Base
    settings: tuple[Setting, ...]
    axes: tuple[Axis, ...]
    runs: Mapping[str, tuple[Setting, ...]]
    plots: tuple[PlotConfig, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a study file.

        Raises:
            KgenError: the message lists all errors, one per line, each with its place.
        """
        return cls.from_source(read_file(path), path.stem, path.parent)

    @classmethod
    def from_source(cls, source: Source, name: str = "", folder: Path = Path()) -> Self:
        """Checks the content of a study file.

        Args:
            source: The content, with its places.
            name: The name; "": it follows from those of the run and the axes.
            folder: The folder to which the path of the run is relative.

        Raises:
            KgenError: the message lists all errors, one per line, each with its place.
        """
        checked, problems = check(StudyFile, _one_or_several(source.data), OWNER)
        for path, message in problems:
            source.report(
                _plot_path(source, path[1], *path[2:]) if path[:1] == ("plot",) and path[1:] else path, message
            )
        source.raise_problems()
        assert isinstance(checked, StudyFile)
        base = _base(source, checked.run, name, folder)
        keys = _Keys(source, base, _sampling_options(base, checked))
        settings = keys.settings(("set",), checked.settings)
        settings += keys.evaluation(checked)
        axes = tuple(keys.axes(checked.over))
        runs = {run: keys.settings(("runs", run), found, trained=True) for run, found in checked.runs.items()}
        keys.check_references(checked)
        varied = [setting for axis in axes for value in axis.values for setting in value.settings]
        keys.check_own_run([*settings, *varied, *(setting for own in runs.values() for setting in own)])
        for setting, axis in overwritten(axes):
            keys.problem(setting.origin, f"{setting.key}: the axis '{axis.name}' overwrites it: name that axis first")
        source.raise_problems()
        averaged = [axis for axis in axes if axis.repeats]  # the table has means over these
        keys.check_plots(checked, [axis for axis in axes if axis not in averaged])
        source.raise_problems()
        name = name or slug(f"{base.name}-over-{'-'.join(short_names(axes).values())}")
        return cls(name, base, tuple(settings), axes, {run: tuple(own) for run, own in runs.items()}, checked.plot)

    def dump(self) -> dict[str, Any]:
        """The study as plain data, with the content of the run file; `from_source` reads it."""
        run = {"name": self.base.name, **self.base.source.data}
        data = {
            "run": run if self.base.directory is None else str(self.base.directory.resolve()),
            "set": {setting.key: setting.value for setting in self.settings},
            "over": plain_axes(self.axes),
            "runs": {name: {s.key: s.value for s in settings} for name, settings in self.runs.items()},
            "plot": [plot.model_dump(mode="json", exclude_defaults=True) for plot in self.plots],
        }
        return copy.deepcopy({key: value for key, value in data.items() if value and value != [{}]})


def is_study(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a study, and not a run file."""
    return "over" in data or "run" in data


def _one_or_several(data: dict[str, Any]) -> dict[str, Any]:
    """The content of a study file, in which a single plot, and a single name in a plot, become lists."""
    plots: list[Any] = data["plot"] if isinstance(data.get("plot"), list) else [data.get("plot")]
    if not all(isinstance(plot, dict) for plot in plots):
        return data
    listed = [
        {key: [value] if key in ("y", "line") and isinstance(value, str) else value for key, value in plot.items()}
        for plot in plots
    ]
    return {**data, "plot": listed}


def _plot_path(source: Source, number: Any, *keys: Any) -> KeyPath:
    """The path of a key of a plot in the study file, where a single plot has no number."""
    return ("plot", *((number,) if isinstance(source.data["plot"], list) else ()), *keys)


def _plotted(source: Source, plots: Sequence[PlotConfig]) -> Iterator[tuple[str, str, KeyPath]]:
    """The names that plots refer to, each with its key, and the path of that key in the study file."""
    for number, plot in enumerate(plots):
        for key, names in (("x", (plot.x,)), ("line", plot.line or ()), ("label", (plot.label,)), ("y", plot.y or ())):
            yield from ((key, name, _plot_path(source, number, key)) for name in names if name)


def _base(source: Source, run: str | dict[str, Any], name: str, folder: Path) -> Base:
    """Reads the run of a study."""
    if isinstance(run, dict):
        where = {path[1:]: origin for path, origin in source.where.items() if path[:1] == ("run",)}
        return Base(Source(run, source.at(("run",)), where), str(run.get("name", name or "run")))
    path = folder / run if (folder / run).exists() else Path(run)
    if path.is_dir():
        return _trained(path)
    try:
        found = find_run_file(path)
    except ConfigError as error:
        source.report(("run",), str(error))
        source.raise_problems()
    content = read_file(found)
    if is_study(content.data):
        source.report(("run",), f"{found} is a study: name a run file")
        source.raise_problems()
    return Base(content, str(content.data.get("name", found.stem)))


def _trained(path: Path) -> Base:
    directory = RunDirectory(path)
    directory.require_run()
    config = RunConfig.load(directory.config)
    if not directory.is_trained(config.fit.steps):
        raise RunError(f"{path} holds no trained pipeline: finish its training first, with 'kgen run'")
    return Base(read_file(directory.config), config.name, path)


def _sampling_options(base: Base, study: StudyFile) -> dict[str, None]:
    """The options of `generate` of the generators in a study."""
    given = [base.source.data.get("generator"), study.settings.get("generator")]
    over = study.over.get("generator", [])
    given += over if isinstance(over, list) else []
    found: dict[str, None] = {}
    for choice in given:
        name = choice.get("name") if isinstance(choice, dict) else choice
        try:
            cls = registry().find("generator", name).load() if isinstance(name, str) else None
        except KgenError:  # reported when the configurations are checked
            continue
        if cls is not None:
            found |= dict.fromkeys([*options(cls.generate), *getattr(cls, "renamed", {})])
    return found


class _Keys:
    """Reads the keys and values of a study, and reports what is wrong with them.

    Args:
        source: The study, which receives the problems.
        base: The run.
        sampling: The options of the generators' `generate`.
    """

    def __init__(self, source: Source, base: Base, sampling: Collection[str]) -> None:
        self.source, self.base, self.sampling = source, base, sampling

    def problem(self, origin: Origin, message: str) -> None:
        self.source.problems.append((origin, message))

    def settings(self, path: KeyPath, given: Mapping[str, Any], trained: bool = False) -> list[Setting]:
        """The settings at a path of the study. `trained`: whether they are of a run that the sweep trains itself."""
        return [
            Setting(self.full(key, self.source.at((*path, key)), trained), value, self.source.at((*path, key)))
            for key, value in given.items()
        ]

    def full(self, key: str, origin: Origin, trained: bool = False) -> str:
        """The full key in a run file. Reports a key that does not exist, or that must not change."""
        first, fields = key.partition(".")[0], list(RunConfig.model_fields)
        if first not in fields:
            if first in self.sampling:
                return f"{SAMPLING}.{key}"
            near = difflib.get_close_matches(first, [*fields, *self.sampling], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            takes = (
                f"a run file takes: {', '.join(fields)}; its sampling takes: {', '.join(self.sampling) or 'nothing'}"
            )
            self.problem(origin, f"{key}: unknown key{hint} ({takes})")
        elif key == "name":
            self.problem(origin, "name: kgen names the runs of a sweep: leave this out")
        elif self.base.directory is not None and affects_training(key) and not trained:
            self.problem(
                origin,
                f"{key}: affects the training, but {self.base.directory} is trained already: sweep over keys of "
                "'sample' and 'evaluate', or name a run file in place of the run",
            )
        return key

    def evaluation(self, study: StudyFile) -> list[Setting]:
        """The settings of `metrics` and `evaluate`."""
        found = []
        if study.metrics is not None:
            origin = self.source.at(("metrics",))
            if "metrics" in study.evaluate:
                self.problem(origin, "metrics: are given twice, here and under 'evaluate': keep one")
            found.append(Setting("evaluate.metrics", study.metrics, origin))
            found.append(Setting("evaluate.likelihood", {}, origin))
        for key, value in study.evaluate.items():
            found.append(Setting(f"evaluate.{key}", value, self.source.at(("evaluate", key))))
        return found

    def axes(self, over: Mapping[str, list[Any] | dict[str, Settings]]) -> Iterator[Axis]:
        """The axes of the study."""
        for name, values in over.items():
            origin = self.source.at(("over", name))
            if not values:
                self.problem(origin, f"over.{name}: needs at least one value")
                continue
            if isinstance(values, dict):
                if name in COLUMNS:
                    self.problem(origin, f"over.{name}: is the name of a column of the table: choose another name")
                yield Axis(name, tuple(self._named(name, values)), named=True)
                continue
            labels = [text_of(value) for value in values]
            if twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
                self.problem(origin, f"over.{name}: {show(twice[0])} is given twice: keep one")
            if used_by := list(self._used_by(name, over)):
                yield variable_axis(name, values, used_by)
                continue
            places = [(value, self.source.at(("over", name, n))) for n, value in enumerate(values)]
            yield key_axis(self.full(name, origin), places)

    def _used_by(self, name: str, over: Mapping[str, list[Any] | dict[str, Settings]]) -> Iterator[str]:
        """The keys that named values set to a value with the variable "{name}"."""
        if name.partition(".")[0] in RunConfig.model_fields or name in self.sampling or name in COLUMNS:
            return
        for values in over.values():
            for given in values.values() if isinstance(values, dict) else ():
                for key, value in given.items():
                    if with_variables(value, {name: None}) != value:
                        yield f"{SAMPLING}.{key}" if key.partition(".")[0] in self.sampling else key

    def _named(self, name: str, values: Mapping[str, Settings]) -> Iterator[Value]:
        for label, given in values.items():
            yield Value(label, tuple(self.settings(("over", name, label), given)))

    def check_plots(self, study: StudyFile, axes: Sequence[Axis]) -> None:
        """Reports names of axes and of metrics that do not exist."""
        metrics, listed = self._metrics(study), ", ".join(short_names(axes).values()) or "none"
        for key, name, path in _plotted(self.source, study.plot):
            if find_axis(axes, name) is not None and key != "y":
                continue
            number = key in ("x", "y")
            if number and (metrics is None or name.startswith((BITS, *(f"{metric} " for metric in metrics)))):
                continue
            known = f"the axes are: {listed}" if key != "y" else ""
            known += f"{'; ' if known else ''}the metrics are: {', '.join(metrics or ())}" if number else ""
            what = {"x": "axis or number", "y": "number"}.get(key, "axis")
            self.source.report(path, f"there is no {what} '{name}' ({known})")

    def _metrics(self, study: StudyFile) -> list[str] | None:
        """The names of the metrics, as numbers begin with them; None if trials differ in them."""
        given = study.metrics or study.evaluate.get("metrics")
        if given is None:
            settings = [study.settings, *(v for a in study.over.values() if isinstance(a, dict) for v in a.values())]
            if any(key.startswith("evaluate") for key in (*study.over, *(key for own in settings for key in own))):
                return None
            evaluate = self.base.source.data.get("evaluate")
            given = evaluate.get("metrics") if isinstance(evaluate, dict) else None
        if not isinstance(given, list | tuple | None):
            return None  # the check of the run's configuration reports it
        names = [metric.get("name") if isinstance(metric, dict) else metric for metric in given or ()]
        return [part for name in names if isinstance(name, str) for part in dict.fromkeys((name.split("/")[-1], name))]

    def check_references(self, study: StudyFile) -> None:
        """Reports references to runs that the study does not name, and from one such run to another."""
        for path in (("set",), ("over",), ("runs",)):
            value: Any = {"set": study.settings, "over": study.over, "runs": study.runs}[path[0]]
            for place, name in find_references(value, path):
                if path == ("runs",):
                    self.source.report(place, f"{{runs}}/{name}: a run that is trained first cannot refer to another")
                elif name not in study.runs:
                    near = difflib.get_close_matches(name, study.runs, n=1)
                    hint = f"; did you mean '{near[0]}'?" if near else ""
                    listed = ", ".join(study.runs) or "none"
                    self.source.report(place, f"{{runs}}/{name}: there is no such run{hint} (under 'runs': {listed})")

    def check_own_run(self, settings: Sequence[Setting]) -> None:
        """Reports settings other than sampling options that refer to the run of their own trial."""
        for setting in settings:
            if not setting.key.startswith(SAMPLING) and OWN_RUN.search(text_of(setting.value)):
                self.problem(setting.origin, f"{setting.key}: {{run}} can only stand in keys of '{SAMPLING}'")
