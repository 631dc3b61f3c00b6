"""The steps after a training: the final grid, the scores and the report; and `kgen evaluate`."""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kgen.config import LikelihoodConfig, RunConfig
from kgen.config.changes import Change
from kgen.errors import ConfigError, HookWarning, RunError, RunInterruptedError
from kgen.evaluation.results import Result, Scores, read_results, to_scores, write_results
from kgen.evaluation.scoring import OnImages, likelihood, make_plans, score
from kgen.evaluation.states import States
from kgen.evaluation.workers import score_with_workers
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
from kgen.storage.ownership import require_free
from kgen.training.loggers import opened_loggers

CHANGED = "changed data"
"""Suffix of the name of a split whose images or captions differ from those of the training."""


def finish(
    experiment: Experiment,
    directory: RunDirectory,
    pipeline: Pipeline,
    log: Log = print,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Generates the final grid, scores the pipeline, writes the report, and then marks the run as finished."""
    render_final(experiment, directory, pipeline)
    results = _measure(experiment, directory, pipeline, directory.evaluation, 1, log, on_images)
    return _publish(experiment, directory, results, "", log)


def is_finished(directory: RunDirectory) -> bool:
    """Whether a run is finished, and its final files exist."""
    left = (directory.final_grid, directory.evaluation, directory.report)
    return bool(directory.read_manifest().get("finished")) and all(path.is_file() for path in left)


@component_errors()
def evaluate(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    metrics: Sequence[Any] = (),
    out: Path | None = None,
    workers: int = 1,
    allow_changed_data: bool = False,
    log: Log = print,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Generates images from the prompts of a finished run's dataset, and scores them.

    The results are written to `evaluation.json` of the run and to its report. An interrupted evaluation continues where
    it was when it is repeated.

    Args:
        path: The run directory.
        overrides: Changes of the configuration, such as ["evaluate.images=1000"], which are saved in `config.yaml`.
            They must not affect the training.
        metrics: Names of metrics, or mappings with names and options, which are measured instead of those of the run.
            They become metrics of the run, whose other results are kept.
        out: A file PATH.json for the results. The run then stays as it is.
        workers: Number of processes that share the images.
        allow_changed_data: Whether to score even if images or captions differ from those of the training. The names of
            the splits then have a suffix.
        log: Receives notes about the scores.
        on_images: Called with the number of images measured so far, and of all images.

    Raises:
        RunError: the data have changed, or another process is working on the run.
        RunInterruptedError: the user pressed Ctrl-C.
        ConfigError: an override affects the training; `out` is a file that kgen did not write; or a metric needs more
            images.
    """
    directory = RunDirectory(path)
    directory.require_run()
    if out is not None:
        require_free(out)
    with contextlib.nullcontext() if out is not None else directory.locked():
        whole = RunConfig.load(directory.config, overrides)
        _require_trained(directory, whole)
        changes = directory.changes(whole)
        if refused := [change for change in changes if change.affects_training]:
            raise ConfigError(
                "an evaluation cannot change settings that affect the training: "
                f"{'; '.join(map(str, refused))}: train another run with 'kgen run'"
            )
        config = _with_metrics(whole, metrics)
        experiment = open_experiment(config, trained=True)
        other_data = changed_data(directory, experiment.dataset, allow_changed_data)
        pipeline = load(directory.model)
        results = _measure(experiment, directory, pipeline, out or directory.evaluation, workers, log, on_images)
        if other_data:
            results = [replace(result, split=f"{result.split}, {CHANGED}") for result in results]
        if out is not None:
            for note in _notes(experiment, results, other_data):
                log(f"note: {note}")
            write_results(out, results)
            return results
        kept: list[Result] = []
        if metrics:
            whole = _united(whole, config)
            kept = [] if _resampled(changes) else _others(directory, results)
        directory.prepare(whole)
        if _resampled(changes):
            render_final(experiment, directory, pipeline)
        with opened_loggers(whole.loggers, directory.path, whole.dump()) as loggers:
            _publish(experiment, directory, [*results, *kept], other_data, log)
            loggers.scores = to_scores([*results, *kept])
        return results


def _measure(
    experiment: Experiment,
    directory: RunDirectory,
    pipeline: Pipeline,
    file: Path,
    workers: int,
    log: Log,
    on_images: OnImages | None,
) -> list[Result]:
    """Measures all results. What was measured is kept beside the file of the results, until all are there."""
    described = {
        "sample": experiment.config.sample.model_dump(mode="json"),
        "evaluate": {**experiment.config.dump()["evaluate"], "likelihood": None, "every": 0},
        "model": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(directory.model.rglob("*"))],
        "data": experiment.dataset.fingerprint(),
        "workers": workers,
    }
    states = States(file.with_name(f"{file.stem}-unfinished"), described)
    if states.continues:
        log("continuing the evaluation that was interrupted")
    for split, plan in make_plans(experiment, pipeline).items():
        seeds = experiment.config.evaluate.seeds
        each = f"{plan.images:,} images of {len(plan.prompts):,} prompts"
        log(f"scoring {split}: {each}" + (f", with each of {seeds} seeds" if seeds > 1 else ""))
        for name, metric in experiment.metrics.items():
            if metric.min_images > plan.images:
                log(f"note: {name} is not measured for {split}: it needs at least {metric.min_images} images")
    try:
        if workers == 1:
            results = score(experiment, pipeline, states, on_images)
        else:
            results = score_with_workers(experiment, pipeline, directory, states, workers, on_images)
            results += likelihood(experiment, pipeline)
    except KeyboardInterrupt:
        kept = "what was measured is kept" if states.exist else "it was too short for anything to be kept"
        raise RunInterruptedError(
            f"the evaluation was stopped; {kept}. Give the same command again to continue"
        ) from None
    states.clear()
    return results


def _with_metrics(config: RunConfig, metrics: Sequence[Any]) -> RunConfig:
    """The configuration with these metrics in place of its own; the same configuration if there are none."""
    if not metrics:
        return config
    data = config.dump()
    data["evaluate"] |= {"metrics": list(metrics), "likelihood": LikelihoodConfig().model_dump()}
    return RunConfig.from_dict(data)


def _united(config: RunConfig, other: RunConfig) -> RunConfig:
    """A configuration with the metrics of another as well, which replace metrics of the same name."""
    new = {metric.name: metric for metric in other.evaluate.metrics}
    metrics = {metric.name: metric for metric in config.evaluate.metrics} | new
    evaluate = config.evaluate.model_copy(update={"metrics": tuple(metrics.values())})
    return config.model_copy(update={"evaluate": evaluate})


def _resampled(changes: Sequence[Change]) -> bool:
    """Whether the images are other ones than before."""
    return any(change.key.startswith("sample.") for change in changes)


def _others(directory: RunDirectory, results: Sequence[Result]) -> list[Result]:
    """The earlier results of other metrics."""
    measured = {result.metric for result in results}
    return [result for result in read_results(directory.evaluation) if result.metric not in measured]


def _notes(experiment: Experiment, results: Sequence[Result], other_data: str) -> list[str]:
    """Sentences that a reader of the scores must know."""
    notes = [caveat for metric in experiment.metrics.values() for caveat in metric.caveats(experiment.dataset)]
    if other_data:
        notes.append(f"these are scores on other images or captions than those of the training: {other_data}")
    return notes + [f"{r.label} is not a finite number" for r in results if not math.isfinite(r.mean)]


def _publish(
    experiment: Experiment, directory: RunDirectory, results: Sequence[Result], other_data: str, log: Log
) -> list[Result]:
    """Writes the scores and the report, marks the run as finished, and calls the hooks of plugins.

    Args:
        experiment: The experiment.
        directory: The run directory.
        results: The results.
        other_data: A description of how images or captions differ from those of the training; "": they are equal.
        log: Receives notes about the scores.
    """
    notes = _notes(experiment, results, other_data)
    for note in notes:
        log(f"note: {note}")
    write_results(directory.evaluation, results)
    directory.update_manifest(notes_on_scores=notes)
    write_report(directory, experiment.dataset.credit)
    directory.update_manifest(finished=time.strftime("%Y-%m-%d %H:%M:%S"))
    _tell_plugins(directory, to_scores(results))
    return list(results)


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
