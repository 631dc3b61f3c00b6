"""The steps after a training: the final grid, the scores and the report; and `kgen evaluate`."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from kgen.config import RunConfig
from kgen.errors import ConfigError, HookWarning, RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import Experiment, open_experiment
from kgen.experiments.provenance import changed_data
from kgen.experiments.trainer import Log
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.plugins.discovery import ask, registry
from kgen.plugins.faults import component_errors, reason
from kgen.runs.report import write_report
from kgen.runs.samples import render_final
from kgen.runs.scoring import Scores, in_split, score
from kgen.training.loggers import opened_loggers

CHANGED = "changed data"
"""Suffix of the name of a split whose images or captions differ from those of the training."""


def finish(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline, log: Log = print) -> Scores:
    """Generates the final grid, scores the pipeline, writes the report, and then marks the run as finished."""
    render_final(experiment, directory, pipeline)
    return _publish(experiment, directory, score(experiment, pipeline), "", log)


def is_finished(directory: RunDirectory) -> bool:
    """Whether a run is finished, and its final files exist."""
    left = (directory.final_grid, directory.evaluation, directory.report)
    return bool(directory.read_manifest().get("finished")) and all(path.is_file() for path in left)


@component_errors()
def evaluate(
    path: str | Path, overrides: Sequence[str] = (), *, allow_changed_data: bool = False, log: Log = print
) -> Scores:
    """Generates images from the prompts of a finished run's dataset, scores them, and updates the report.

    Args:
        path: The run directory.
        overrides: Changes of the configuration, such as ["evaluate.max_prompts=4"], which are saved in `config.yaml`.
            They must not affect the training.
        allow_changed_data: Whether to score even if images or captions differ from those of the training. The names of
            the splits then have a suffix.
        log: Receives notes about the scores.

    Raises:
        RunError: the data have changed, or another process is working on the run.
        ConfigError: an override affects the training.
    """
    directory = RunDirectory(path)
    directory.require_run()
    with directory.locked():
        config = RunConfig.load(directory.config, overrides)
        _require_trained(directory, config)
        changes = directory.changes(config)
        if refused := [change for change in changes if change.affects_training]:
            raise ConfigError(
                "an evaluation cannot change settings that affect the training: "
                f"{'; '.join(map(str, refused))}: train another run with 'kgen run'"
            )
        experiment = open_experiment(config, trained=True)
        other_data = changed_data(directory, experiment.dataset, allow_changed_data)
        pipeline = load(directory.model)
        scores = score(experiment, pipeline)
        if other_data:
            scores = {f"{split}, {CHANGED}": numbers for split, numbers in scores.items()}
        directory.prepare(config)
        if any(change.key.startswith("sample.") for change in changes):
            render_final(experiment, directory, pipeline)
        with opened_loggers(config.loggers, directory.path, config.dump()) as loggers:
            loggers.scores = _publish(experiment, directory, scores, other_data, log)
        return scores


def _publish(experiment: Experiment, directory: RunDirectory, scores: Scores, other_data: str, log: Log) -> Scores:
    """Writes the scores and the report, marks the run as finished, and calls the hooks of plugins.

    Args:
        experiment: The experiment.
        directory: The run directory.
        scores: The scores.
        other_data: A description of how images or captions differ from those of the training; "": they are equal.
        log: Receives notes about the scores.
    """
    dataset = experiment.dataset
    notes = [caveat for metric in experiment.metrics.values() for caveat in metric.caveats(dataset)]
    if other_data:
        notes.append(f"these are scores on other images or captions than those of the training: {other_data}")
    notes += [
        f"{in_split(name, split)} is not a finite number"
        for split, numbers in scores.items()
        for name, value in numbers.items()
        if not math.isfinite(value)
    ]
    for note in notes:
        log(f"note: {note}")
    directory.write_scores(scores)
    directory.update_manifest(notes_on_scores=notes)
    write_report(directory, dataset.credit)
    directory.update_manifest(finished=time.strftime("%Y-%m-%d %H:%M:%S"))
    _tell_plugins(directory, scores)
    return scores


def _tell_plugins(directory: RunDirectory, scores: Scores) -> None:
    """Calls `kgen_run_finished` of every plugin, and warns if one fails."""
    for origin, plugin in registry().plugins.items():
        try:
            ask("kgen_run_finished", plugin, origin, directory=directory.path, scores=copy.deepcopy(dict(scores)))
        except (Exception, SystemExit) as error:
            message = f"kgen_run_finished of {origin} failed: {reason(error)}"
            warnings.warn(f"{message}; the run is finished", HookWarning, stacklevel=2)


def _require_trained(directory: RunDirectory, config: RunConfig) -> None:
    """Raises RunError if nothing is trained yet, and ConfigError if the configuration has more steps than trained."""
    step = directory.read_manifest().get("step", 0)
    if not directory.is_trained(max(1, step)):
        raise RunError(f"{directory.path} holds no trained pipeline: finish its training first, with 'kgen run'")
    if not directory.is_trained(config.fit.steps):
        raise ConfigError(f"fit.steps: {config.fit.steps} asks for more training: give it to 'kgen run'")
