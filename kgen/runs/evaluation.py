"""The steps after a training: the final grid, the scores and the report; and `kgen evaluate`."""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.errors import ConfigError, HookWarning, RunError, RunInterruptedError
from kgen.evaluation.bias import biases, warn_of_bias
from kgen.evaluation.results import Result, Scores, read_results, to_scores, write_results
from kgen.evaluation.scoring import OnImages, likelihood, make_plans, score_generated
from kgen.evaluation.states import States
from kgen.evaluation.workers import score_with_workers
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import Experiment, open_experiment
from kgen.experiments.provenance import changed_data
from kgen.experiments.trainer import Log
from kgen.parts.construction import Choice
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.pipeline.prompts import check_number
from kgen.plugins.discovery import Hooks, registry
from kgen.plugins.faults import component_errors, reason
from kgen.plugins.models import find_run
from kgen.runs.evaluation_config import changed_config, united, with_metrics
from kgen.runs.report import write_report
from kgen.runs.samples import render_final
from kgen.storage.files import writable_folder
from kgen.storage.locks import output_lock
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
    *,
    keep: bool = False,
) -> list[Result]:
    """Generates the final grid, scores the pipeline, writes the report, and then marks the run as finished.

    Args:
        experiment: The experiment.
        directory: The run directory, which the caller has locked.
        pipeline: The trained pipeline.
        log: Receives notes about the scores.
        on_images: Called with the number of images measured so far, and with the number of all images.
        keep: Whether to keep the earlier results of other metrics. They must be of the same model and options.

    Returns:
        The results, which are also in `evaluation.json`.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C.
        ConfigError: a metric needs more images.
    """
    render_final(experiment, directory, pipeline)
    with _measured(experiment, directory, pipeline, directory.evaluation, 1, log, on_images) as results:
        kept = _others(directory, results) if keep else []
        if kept:
            log(f"kept the earlier scores of {', '.join(dict.fromkeys(result.metric for result in kept))}")
        return _publish(experiment, directory, pipeline, [*results, *kept], "", log)


def is_finished(directory: RunDirectory) -> bool:
    """Whether a run is finished, and its final files exist."""
    left = (directory.final_grid, directory.evaluation, directory.report)
    return bool(directory.read_manifest().get("finished")) and all(path.is_file() for path in left)


@component_errors()
def evaluate(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    metrics: Sequence[Choice] = (),
    out: str | Path | None = None,
    workers: int = 1,
    allow_changed_data: bool = False,
    log: Log = print,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Generates images from the prompts of a trained run's dataset, and scores them.

    The results are written to `evaluation.json` of the run and to its report. After an interruption, the same call
    continues the evaluation.

    Args:
        path: The run directory.
        overrides: Changes of the configuration, such as ["evaluate.images=1000"], which are saved in `config.yaml`.
            They must not affect the training. If only one key of `sample` and `evaluate` ends in "guidance", this is
            enough for ["guidance=1"].
        metrics: Names of metrics, or mappings with names and options, which are measured instead of those of the run.
            They become metrics of the run, whose other results are kept if they are of the same model and the same
            sampling options.
        out: A file PATH.json for the results, in place of those of the run. The run then stays as it is. The file also
            names the run, its sampling options and the settings of the evaluation.
        workers: Number of processes that share the images. Each loads the pipeline.
        allow_changed_data: Whether to score even if images or captions differ from those of the training. The names of
            the splits then have a suffix.
        log: Receives notes about the scores.
        on_images: Called with the number of images measured so far, and with the number of all images.

    Returns:
        The results of this measurement.

    Raises:
        RunError: the run is not trained, the data have changed, another process is working on the run or on `out`, or
            a worker failed.
        RunInterruptedError: the user pressed Ctrl-C.
        ConfigError: an override affects the training; `out` is a file that kgen did not write; a metric is unknown, or
            needs more images; or `workers` is not a positive number.
        OSError: the folder of `out` cannot be written to.
    """
    check_number("workers", workers)
    directory = RunDirectory(find_run(path))
    directory.require_run()
    with _output(directory, out) as file:
        whole = changed_config(directory, overrides)
        config = with_metrics(whole, metrics)
        experiment = open_experiment(config, trained=True)
        other_data = changed_data(directory, experiment.dataset, allow_changed_data)
        if metrics and out is None:
            _require_readable(file)
        pipeline = load(directory.model)
        warn_of_bias(experiment.metrics, pipeline.encoder)
        with _measured(experiment, directory, pipeline, file, workers, log, on_images) as results:
            if other_data:
                results = [replace(result, split=f"{result.split}, {CHANGED}") for result in results]
            if out is None:
                recorded = united(whole, config) if metrics else whole
                _record(experiment, directory, pipeline, recorded, results, other_data, log, keep=bool(metrics))
            else:
                for note in _notes(experiment, pipeline, results, other_data):
                    log(f"note: {note}")
                write_results(file, results, described(directory, config))
        return results


def _require_readable(file: Path) -> None:
    """Finds an error in the results of a run before the measurement, not after it. Raises RunError with advice."""
    try:
        read_results(file)
    except RunError as error:
        raise RunError(f"{error}. Give the command without --metric, which writes the file anew") from error


def described(directory: RunDirectory, config: RunConfig) -> dict[str, Any]:
    """What a file of results outside of the run says about them: the run, how it was sampled, and what was measured."""
    data = config.dump()
    manifest = directory.read_manifest()
    return {"run": str(directory.path), "step": manifest.get("step", 0), **{k: data[k] for k in ("sample", "evaluate")}}


@contextlib.contextmanager
def _output(directory: RunDirectory, out: str | Path | None) -> Iterator[Path]:
    """Yields the file of the results, and keeps other processes from working on it, or on the run.

    Args:
        directory: The run directory.
        out: A file for the results; None: that of the run.
    """
    if out is None:
        with directory.locked():
            yield directory.evaluation
        return
    file = Path(out)
    if file.resolve() == directory.evaluation.resolve():
        raise ConfigError(f"{file} has the results of the run: leave --output out to replace these")
    require_free(file)
    writable_folder(file.parent)
    with output_lock(file, "--output"):
        yield file


def _record(
    experiment: Experiment,
    directory: RunDirectory,
    pipeline: Pipeline,
    config: RunConfig,
    results: Sequence[Result],
    other_data: str,
    log: Log,
    *,
    keep: bool,
) -> None:
    """Stores results and settings in the run directory, and renders the final grid again if its images are new.

    Args:
        experiment: The experiment that was measured.
        directory: The run directory.
        pipeline: The pipeline.
        config: The configuration of the run.
        results: The results.
        other_data: See `_publish`.
        log: Receives notes about the scores.
        keep: Whether the run keeps its results of other metrics. It never keeps them if its images are new.
    """
    changes = directory.changes(config)
    new_images = not is_finished(directory) or any(change.key.startswith("sample.") for change in changes)
    kept = _others(directory, results) if keep and not new_images else []
    directory.prepare(config)
    for change in (change for change in changes if not change.key.startswith("evaluate.metrics")):
        log(f"note: config.yaml of the run is changed: {change}")
    if new_images:
        render_final(experiment, directory, pipeline)
    with opened_loggers(config.loggers, directory.path, config.dump()) as loggers:
        _publish(experiment, directory, pipeline, [*results, *kept], other_data, log)
        loggers.scores = to_scores([*results, *kept])


@contextlib.contextmanager
def _measured(
    experiment: Experiment,
    directory: RunDirectory,
    pipeline: Pipeline,
    file: Path,
    workers: int,
    log: Log,
    on_images: OnImages | None,
) -> Iterator[list[Result]]:
    """Measures and yields all results. The states of the metrics are kept beside the file until the block ends.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C.
        RunError: a worker failed.
        ConfigError: a metric needs more images.
    """
    states = States(file.with_name(f"{file.stem}-unfinished"), _described(experiment, directory, pipeline, workers))
    if states.continues:
        log("continuing the evaluation that was interrupted")
    if states.replaces:
        log("note: an interrupted evaluation had other settings or another model, so its measurements were deleted")
    seeds = experiment.config.evaluate.seeds
    for split, plan in make_plans(experiment, pipeline.encoder.fields).items():
        each = f"{plan.images:,} images of {len(plan.prompts):,} prompts"
        log(f"scoring {split}: {each}" + (f", with each of {seeds} seeds" if seeds > 1 else ""))
        for name, metric in experiment.metrics.items():
            if metric.min_images > plan.images:
                log(f"note: {name} is not measured for {split}: it needs at least {metric.min_images} images")
    try:
        options = experiment.config.sample.options
        if workers == 1:
            results = score_generated(experiment, pipeline, options, states, on_images)
        else:
            results = score_with_workers(experiment, pipeline, directory, states, workers, on_images)
        results += likelihood(experiment, pipeline)
        yield results
    except KeyboardInterrupt:
        kept = (
            "what was measured is kept. Give the same command again to continue"
            if states.exist
            else "it was too short to keep anything. Give the same command again to repeat it"
        )
        raise RunInterruptedError(f"the evaluation was stopped; {kept}") from None
    states.clear()


def _described(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline, workers: int) -> dict[str, Any]:
    """Everything that determines the states of the metrics: see `States`."""
    config = experiment.config
    given = {name: value for name, value in config.sample.options.items() if name != "decoder"}
    guide = pipeline.checked_options(given)[1]
    unused = {"likelihood": None, "every": None, "proxy_images": None}
    return {
        "sample": config.sample.model_dump(mode="json"),
        "evaluate": {**config.dump()["evaluate"], **unused},
        "model": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(directory.model.rglob("*"))],
        "guide": None if guide is None else repr(guide.key),
        "data": experiment.dataset.fingerprint(),
        "protocols": _protocols(experiment),
        "workers": workers,
    }


def _protocols(experiment: Experiment) -> dict[str, Any]:
    """The protocol of each metric before it measures, such as the hash of its weights, if the metric knows it yet."""
    found: dict[str, Any] = {}
    for name, metric in experiment.metrics.items():
        with contextlib.suppress(Exception):
            found[name] = dict(metric.protocol())
    return found


def _others(directory: RunDirectory, results: Sequence[Result]) -> list[Result]:
    """The earlier results of other metrics."""
    measured = {result.metric for result in results}
    return [result for result in read_results(directory.evaluation) if result.metric not in measured]


def _notes(experiment: Experiment, pipeline: Pipeline, results: Sequence[Result], other_data: str) -> list[str]:
    """Sentences that a reader of the scores must know."""
    notes = [caveat for metric in experiment.metrics.values() for caveat in metric.caveats(experiment.dataset)]
    notes += biases(experiment.metrics, pipeline.encoder)
    if other_data:
        notes.append(f"these are scores on other images or captions than those of the training: {other_data}")
    return notes + [f"{r.label} is not a finite number" for r in results if not math.isfinite(r.mean)]


def _publish(
    experiment: Experiment,
    directory: RunDirectory,
    pipeline: Pipeline,
    results: Sequence[Result],
    other_data: str,
    log: Log,
) -> list[Result]:
    """Writes the scores and the report, marks the run as finished, and calls the hooks of plugins.

    Args:
        experiment: The experiment.
        directory: The run directory.
        pipeline: The pipeline.
        results: The results.
        other_data: A description of how images or captions differ from those of the training; "": they are equal.
        log: Receives notes about the scores.
    """
    notes = _notes(experiment, pipeline, results, other_data)
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
    hooks = Hooks()
    for origin, plugin in registry().plugins.items():
        try:
            hooks.ask("kgen_run_finished", plugin, origin, directory=directory.path, scores=copy.deepcopy(dict(scores)))
        except (Exception, SystemExit) as error:
            message = f"kgen_run_finished of {origin} failed: {reason(error)}"
            warnings.warn(f"{message}; the run is finished", HookWarning, stacklevel=2)
