"""The trials of a study: their configurations, and the trainings that they share."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kgen.config import LikelihoodConfig, RunConfig
from kgen.config.changes import affects_training, training_part
from kgen.config.overrides import Setting
from kgen.config.source import read_file
from kgen.config.staged import Staged
from kgen.errors import ConfigError
from kgen.experiments.experiment import needs_stage
from kgen.studies.axes import Value, file_name, file_names
from kgen.studies.guides import guide_problems
from kgen.studies.keys import STAGE
from kgen.studies.references import (
    OWN_RUN,
    REFERENCE,
    references,
    refers_to_own_run,
    resolved,
    with_variables,
)
from kgen.studies.study import Study

MAX_TRIALS = 10_000


@dataclass(frozen=True)
class Trial:
    """One point of a sweep.

    Args:
        name: The name, which is also that of its files.
        values: Its value on each axis, by the name of the axis.
        config: The whole configuration.
        settings: The keys of the run that it changes.
        needs: The names of the runs to which it refers.
    """

    name: str
    values: Mapping[str, Value]
    config: RunConfig
    settings: tuple[Setting, ...]
    needs: frozenset[str]


@dataclass(frozen=True)
class Training:
    """A run, and the trials that are evaluations of it.

    Args:
        name: The name.
        directory: The run directory.
        config: The configuration with which it is trained; None: it is trained already.
        trials: The trials. A run to which trials only refer has none.
        stage: The only part that is trained; None: all of it.
    """

    name: str
    directory: Path
    config: RunConfig | None
    trials: tuple[Trial, ...] = ()
    stage: Staged | None = None


@dataclass(frozen=True)
class Plan:
    """The trainings and the trials of a sweep.

    Args:
        first: The runs that are trained first, because trials refer to them.
        trainings: The runs with trials.
        trials: All trials, in the order of the axes.
    """

    first: tuple[Training, ...]
    trainings: tuple[Training, ...]
    trials: tuple[Trial, ...]


def make_plan(study: Study, folder: Path) -> Plan:
    """Validates the configuration of every trial, and groups the trials that share a training.

    Args:
        study: The study.
        folder: The folder of the runs that the sweep trains.

    Raises:
        ConfigError: the configuration of a trial is wrong, a model that guides it will not exist, or there are too many
            trials. The message lists the problems of all trials, one per line.
    """
    count = math.prod(len(axis.values) for axis in study.axes)
    if count > MAX_TRIALS:
        raise ConfigError(f"over: the axes have {count:,} combinations, but at most {MAX_TRIALS:,} are allowed")
    problems: dict[str, None] = {}
    first = [
        Training(name, folder / name, config and _unscored(config), stage=study.stages.get(name))
        for name, settings in study.runs.items()
        for config in [_configure(study, settings, folder, name, problems)]
    ]
    problems |= dict.fromkeys(_untrained(first))
    parts = file_names(study.axes)
    trials = []
    for values in itertools.product(*(axis.values for axis in study.axes)):
        settings = [setting for value in values for setting in value.settings]
        own = {axis.name: value for axis, value in zip(study.axes, values, strict=True)}
        variables = {k: v for axis in study.axes for k, v in axis.variables(own[axis.name]).items()}
        settings = [replace(setting, value=with_variables(setting.value, variables)) for setting in settings]
        training = [parts[axis.name, own[axis.name].label] for axis in study.axes if axis.affects_training]
        config = _configure(study, settings, folder, file_name(training) if training else study.base.name, problems)
        if config is not None:
            needs = frozenset(references([*study.settings, *settings]))
            name = file_name([parts[axis, value.label] for axis, value in own.items()])
            trials.append(Trial(name, own, config, tuple(settings), needs))
    if problems:
        raise ConfigError("\n".join(problems))
    trainings = _trainings(study, trials, folder)
    order = {trial.name: number for number, trial in enumerate(trials)}
    trials = sorted((t for training in trainings for t in training.trials), key=lambda trial: order[trial.name])
    if taken := {training.name.casefold() for training in trainings} & {name.casefold() for name in study.runs}:
        raise ConfigError(f"runs: '{taken.pop()}' is also the name of the run of a trial: choose another name")
    whole = [t for t in (*first, *trainings) if t.stage is None]
    trained = {t.directory.resolve(): t.config.fit for t in whole if t.config is not None}
    used = [(trial.config, (*study.settings, *trial.settings)) for trial in trials]
    if guides := list(dict.fromkeys(guide_problems(used, trained))):
        raise ConfigError("\n".join(guides))
    return Plan(tuple(first), trainings, tuple(trials))


def _configure(
    study: Study, settings: Sequence[Setting], folder: Path, name: str, problems: dict[str, None]
) -> RunConfig | None:
    """The configuration with the settings of the study and with these; None if there are problems, which it adds."""
    folder = folder.resolve()
    changed = [
        Setting(setting.key, resolved(setting.value, REFERENCE, lambda found: str(folder / found[1])), setting.origin)
        for setting in (*study.settings, *settings)
    ]
    try:
        config = RunConfig.from_source(study.base.source, changed, study.base.name)
    except ConfigError as error:
        problems |= dict.fromkeys(str(error).splitlines())
        return None
    return config.model_copy(update={"name": name})


def _untrained(first: Sequence[Training]) -> Iterator[str]:
    """Yields a message for each run whose only part to be trained has no training."""
    for training in first:
        stage, config = training.stage, training.config
        if stage is not None and config is not None and not needs_stage(config, stage):
            yield (
                f"runs.{training.name}.{STAGE}: there is nothing to train, because {stage} has no 'fit': set "
                f"runs.{training.name}.{stage}, or leave '{STAGE}' out"
            )


def _unscored(config: RunConfig) -> RunConfig:
    """The configuration without metrics and without a likelihood."""
    evaluate = config.evaluate.model_copy(update={"metrics": (), "likelihood": LikelihoodConfig()})
    return config.model_copy(update={"evaluate": evaluate})


def _trainings(study: Study, trials: Sequence[Trial], folder: Path) -> tuple[Training, ...]:
    """Groups the trials whose configurations differ only in keys that have no effect on the training."""
    if study.base.directory is not None:
        own = _refer(trials, study.base.directory)
        return (Training(study.base.name, study.base.directory, None, own),)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_key(trial.config.dump()), []).append(trial)
    begun = _begun(folder, study.runs)
    trainings = []
    for key, members in groups.items():
        name = begun.get(key, members[0].config.name)
        members = [replace(m, config=m.config.model_copy(update={"name": name})) for m in members]
        own = _refer(members, folder / name)
        alone = len(own) == 1 and not refers_to_own_run(members[0].config.sample.options)
        config = own[0].config if alone else _shared(study, own[0], folder)
        trainings.append(Training(name, folder / name, config, own))
    return tuple(trainings)


def _key(config: Mapping[str, Any]) -> str:
    """The part of a configuration that affects the training, as a text."""
    return json.dumps(training_part(config), sort_keys=True)


def _begun(folder: Path, others: Collection[str]) -> dict[str, str]:
    """The names of the runs in a folder by what affects their trainings, so that each is found again.

    The first trial of a training gives it its name, and may have been removed from the study, or added, since then.

    Args:
        folder: The folder of the runs.
        others: The names of runs without trials.
    """
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*/config.yaml")):
        if file.parent.name not in others:
            with contextlib.suppress(ConfigError):  # the training of that run names the problem
                found[_key(read_file(file).data)] = file.parent.name
    return found


def _refer(trials: Sequence[Trial], directory: Path) -> tuple[Trial, ...]:
    """The trials of a run. In their sampling options, the path of the run replaces "{run}"."""
    found = []
    for trial in trials:
        options = resolved(trial.config.sample.options, OWN_RUN, lambda _: str(directory.resolve()))
        sample = trial.config.sample.model_copy(update={"options": options})
        found.append(replace(trial, config=trial.config.model_copy(update={"sample": sample})))
    return tuple(found)


def _shared(study: Study, first: Trial, folder: Path) -> RunConfig:
    """The configuration with which a run of several trials is trained.

    The run is not scored, and its sampling options are those of the study alone, so that a failed trial does not affect
    the others. If they refer to the run itself, which does not exist yet, they are those of the run file.

    Args:
        study: The study.
        first: The first trial of the run.
        folder: The folder of the runs.
    """
    common = [setting for setting in first.settings if affects_training(setting.key)]
    config = _unscored(_configure(study, common, folder, first.config.name, {}) or first.config)
    if not refers_to_own_run(config.sample.options):
        return config
    sample = study.base.source.data.get("sample")
    options = sample.get("options", {}) if isinstance(sample, dict) else {}
    options = {} if refers_to_own_run(options) else options
    return config.model_copy(update={"sample": config.sample.model_copy(update={"options": options})})
