"""The study: the run of a sweep, the settings that it varies, and the numbers that it measures."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kgen.config import RunConfig
from kgen.config.overrides import Setting
from kgen.config.shipped import find_run_file
from kgen.config.short_keys import names_of_sampling
from kgen.config.source import Source, read_file
from kgen.config.staged import Staged
from kgen.errors import ConfigError, KgenError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.plugins.discovery import registry
from kgen.studies.axes import Axis, overwritten, plain_axes, short_names, slug
from kgen.studies.keys import STAGE, Keys
from kgen.studies.plot_names import check_plots
from kgen.studies.study_file import PlotConfig, StudyFile, checked_file, is_study


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
        stages: The only part to be trained of such a run, by its name; runs without an entry are trained as a whole.
        plots: The settings of the plots.
        numbers: The numbers that the plots refer to, each with its key and its place in the study.
    """

    name: str
    base: Base
    settings: tuple[Setting, ...]
    axes: tuple[Axis, ...]
    runs: Mapping[str, tuple[Setting, ...]]
    plots: tuple[PlotConfig, ...]
    numbers: tuple[Setting, ...] = ()
    stages: Mapping[str, Staged] = field(default_factory=dict)

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
        checked = checked_file(source)
        base = _base(source, checked.run, name, folder)
        keys = Keys(source, checked, _sampling_options(source, base, checked), base.directory)
        settings = keys.settings(("set",), checked.settings)
        settings += keys.evaluation()
        axes, runs, stages = tuple(keys.axes()), keys.runs(), keys.stages()
        keys.check_references()
        varied = [setting for axis in axes for value in axis.values for setting in value.settings]
        keys.check_own_run([*settings, *varied, *(setting for own in runs.values() for setting in own)])
        for setting, axis in overwritten(axes):
            keys.problem(setting.origin, f"{setting.key}: the axis '{axis.name}' overwrites it: name that axis first")
        source.raise_problems()
        averaged = [axis for axis in axes if axis.repeats]  # the table has means over these
        numbers = check_plots(source, checked, [axis for axis in axes if axis not in averaged], base.source.data)
        source.raise_problems()
        name = name or slug(f"{base.name}-over-{'-'.join(short_names(axes).values())}")
        return cls(name, base, tuple(settings), axes, runs, checked.plot, tuple(numbers), stages)

    def dump(self) -> dict[str, Any]:
        """The study as plain data, with the content of the run file; `from_source` reads it."""
        run = {"name": self.base.name, **self.base.source.data}
        data = {
            "run": run if self.base.directory is None else str(self.base.directory.resolve()),
            "set": {setting.key: setting.value for setting in self.settings},
            "over": plain_axes(self.axes),
            "runs": {
                name: {**({STAGE: self.stages[name]} if name in self.stages else {}), **{s.key: s.value for s in own}}
                for name, own in self.runs.items()
            },
            "plot": [plot.model_dump(mode="json", exclude_defaults=True) for plot in self.plots],
        }
        return copy.deepcopy({key: value for key, value in data.items() if value and value != [{}]})


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


def _sampling_options(source: Source, base: Base, study: StudyFile) -> dict[str, None]:
    """The options of `generate` of the generators in a study. Raises ConfigError if a generator cannot be found."""
    key = "generator"
    if isinstance(over := study.over.get(key), list):
        given = [(source.at(("over", key, number)), choice) for number, choice in enumerate(over)]
    elif key in study.settings:
        given = [(source.at(("set", key)), study.settings[key])]
    else:
        given = [(base.source.at((key,)), base.source.data.get(key))]
    found: dict[str, None] = {}
    for origin, choice in given:
        name = choice.get("name") if isinstance(choice, dict) else choice
        if not isinstance(name, str):  # reported when the configurations are checked
            continue
        try:
            found |= dict.fromkeys(names_of_sampling(registry().find("generator", name).load()))
        except KgenError as error:
            source.problems.append((origin, f"generator: {error}"))
    source.raise_problems()
    return found
