"""Compares trained runs: their costs, likelihoods, scores and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgen.comparison.facts import BETTER, Facts, Table, better_scores, different_keys, facts
from kgen.comparison.page import IMAGES, INTERPOLATIONS, Comparison, Findings, claim, write_comparison
from kgen.comparison.steps import Measurement, measure_steps
from kgen.config import RunConfig
from kgen.errors import ConfigError, RunError
from kgen.evaluation.columns import make_columns
from kgen.evaluation.meanings import Meanings, of_scores
from kgen.evaluation.results import Better, read_results
from kgen.experiments.directory import RunDirectory
from kgen.experiments.inputs import read_dataset
from kgen.experiments.manifest import TRAINED
from kgen.experiments.prompts import Prompts, Written, prompts_to_generate
from kgen.parts.description import PipelineDescription, read_description
from kgen.parts.saving import PIPELINE
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.plugins.models import find_run
from kgen.reporting.sheets import matrix, save_png

MAX_PROMPTS = 8

INTERPOLATION_STEPS = 8
"""Number of images in an interpolation between two noises."""


@dataclass(frozen=True)
class _Run:
    """A run and its measurements."""

    name: str
    config: RunConfig
    facts: Facts
    better: Mapping[str, Better]
    images: np.ndarray  # (prompts, H, W, C)
    interpolation: np.ndarray | None  # (INTERPOLATION_STEPS, H, W, C)


def compare(
    paths: Sequence[Path],
    out: Path,
    *,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    steps: Sequence[int] = (),
    log: Callable[[str], None] = print,
) -> Comparison:
    """Measures finished runs, and writes `comparison.md`, `.csv`, `.html`, `images.png` and `interpolations.png`.

    With `steps`, it also writes `steps.csv`, and a plot for each metric.

    Args:
        paths: Run directories.
        out: The folder to write.
        prompts: The prompts of the images, as on the command line; None: some of the prompts of the first run.
        seed: The seed of the noise, the same for all runs.
        steps: Numbers of sampling steps with which each run's evaluation prompts are scored, for quality over time;
            empty: this is not measured.
        log: Receives a line about each measurement.

    Raises:
        RunError: a directory contains no finished run.
        ConfigError: the images of the runs have different sizes; `steps` are given, but a run has no metric; or `out`
            cannot be written to, or contains other files of the same names.
    """
    directories = [RunDirectory(find_run(path)) for path in paths]
    for directory in directories:
        directory.require_run()
    names = _names(directories)
    configs = [RunConfig.load(directory.config) for directory in directories]
    if steps:
        _require_metrics(names, configs)
    _require_one_size(names, directories)
    claim(out)
    data, chosen = read_dataset(configs[0].data), Prompts([], [], [])
    runs: list[_Run] = []
    measured: list[Measurement] = []
    results = [read_results(directory.evaluation) for directory in directories]
    columns = make_columns(results)
    notes = [*_notes(directories, names), *columns.notes]
    for name, directory, config, scores in zip(names, directories, configs, map(columns.row, results), strict=True):
        log(f"measuring {name}")
        pipeline = load(directory.model)
        if prompts is not None:
            own = chosen = Written(prompts).for_encoder(pipeline.encoder)
        else:
            chosen = chosen if runs else prompts_to_generate(config, data, pipeline.encoder).some(MAX_PROMPTS)
            own = chosen.for_encoder(pipeline.encoder, data)
        runs.append(_measure(name, directory, config, pipeline, scores, own.inputs, seed))
        if steps:
            made = measure_steps(name, pipeline, config, steps, log)
            measured += made.measured
            notes += made.notes
    meanings = of_scores([result for scores in results for result in scores])
    return _write(out, runs, measured, chosen.texts, notes, meanings)


def _names(directories: Sequence[RunDirectory]) -> list[str]:
    """The names of the directories, or their paths if two names are equal."""
    names = [directory.path.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory.path) for directory in directories]


def _require_one_size(names: Sequence[str], directories: Sequence[RunDirectory]) -> None:
    """Raises ConfigError if the images of the runs have different sizes, and RunError if a run is not trained yet."""
    shapes = []
    for directory in directories:
        file = directory.model / PIPELINE
        if not file.is_file():
            raise RunError(f"{directory.path} holds no trained pipeline: finish its training first, with 'kgen run'")
        shapes.append(read_description(file, PipelineDescription).image_shape)
    if len(set(shapes)) > 1:
        sizes = [f"{name}: {'x'.join(map(str, shape))}" for name, shape in zip(names, shapes, strict=True)]
        raise ConfigError(f"these runs generate images of different sizes: {', '.join(sizes)}")


def _require_metrics(names: Sequence[str], configs: Sequence[RunConfig]) -> None:
    without = [name for name, config in zip(names, configs, strict=True) if not config.evaluate.metrics]
    if without:
        raise ConfigError(
            f"quality over steps needs a metric, but {', '.join(without)} has none: name one under 'evaluate: "
            "metrics:' of its config.yaml, or leave the steps out"
        )


def _measure(
    name: str,
    directory: RunDirectory,
    config: RunConfig,
    pipeline: Pipeline,
    scores: Mapping[str, float],
    prompts: Sequence[Any],
    seed: int,
) -> _Run:
    options = config.sample.options
    images = pipeline.generate(prompts, seed=seed, **options)
    try:
        interpolation = pipeline.interpolate(prompts[0], count=INTERPOLATION_STEPS, seeds=(seed, seed + 1), **options)
    except ConfigError:  # no noise that could be interpolated
        interpolation = None
    better = {**BETTER, **better_scores(config)}
    return _Run(name, config, facts(directory, config, pipeline, scores), better, images, interpolation)


def _notes(directories: Sequence[RunDirectory], names: Sequence[str]) -> list[str]:
    """The differences that make the runs less comparable."""
    manifests = [directory.read_manifest(*TRAINED) for directory in directories]
    notes = []
    for what, values in (
        ("images or captions", [m["data"]["fingerprint"] for m in manifests]),
        ("encoder", [m["components"]["encoder"]["id"] for m in manifests]),
        ("decoder", [m["components"]["decoder"]["id"] for m in manifests]),
        ("backend", [m["software"]["backend"] for m in manifests]),
    ):
        if len(set(values)) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
            notes.append(f"The runs differ in {what} ({listed}).")
    return notes


def _write(
    out: Path,
    runs: Sequence[_Run],
    measured: Sequence[Measurement],
    prompts: Sequence[str],
    notes: Sequence[str],
    meanings: Meanings,
) -> Comparison:
    metadata = {"prompt": "; ".join(prompts), "model": ", ".join(run.name for run in runs)}
    names = [run.name for run in runs]
    save_png(out / IMAGES, matrix([run.images for run in runs], names, prompts), metadata)
    interpolable = [run for run in runs if run.interpolation is not None]
    if interpolable:
        sheet = matrix(
            [run.interpolation for run in interpolable if run.interpolation is not None],
            [run.name for run in interpolable],
        )
        save_png(out / INTERPOLATIONS, sheet, {**metadata, "prompt": prompts[0]})
    better: dict[str, Better] = {}
    for run in runs:
        better |= run.better
    found = Findings(
        table=Table(names, [run.facts for run in runs], better),
        configuration=different_keys([run.config for run in runs]),
        notes=notes,
        interpolated=prompts[0] if interpolable else None,
        measured=measured,
        meanings=meanings,
    )
    return write_comparison(out, found)
