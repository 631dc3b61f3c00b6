"""Quality against time: the same prompts drawn in few steps and in many, each scored and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgen.config import RunConfig
from kgen.errors import ConfigError
from kgen.options import options
from kgen.pipeline.pipeline import Pipeline
from kgen.pipeline.sampler import noise_spec, validate_options
from kgen.reporting.plot import Line, line_plot
from kgen.runs.inputs import read_dataset
from kgen.runs.scoring import headlines, open_metrics, score_generated

TIMED_IMAGES = 32
"""How many are drawn to measure the speed of sampling."""

SECONDS = "seconds per image"


@dataclass(frozen=True)
class Trial:
    """One way of drawing, and what came of it.

    Args:
        run: The run's name.
        steps: None for a generator that has no such option.
        seconds: An image, once compiled.
        scores: By the metric's name.
    """

    run: str
    steps: int | None
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Sweep:
    """The trials of a run, and why some were not made."""

    trials: Sequence[Trial]
    notes: Sequence[str]


def seconds_a_image(pipeline: Pipeline, drawing: Mapping[str, Any]) -> float:
    """How long an image takes to be drawn, among `TIMED_IMAGES`, once everything is compiled."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        pipeline.generate([pipeline.encoder.null], n=TIMED_IMAGES, batch_size=TIMED_IMAGES, **drawing)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / TIMED_IMAGES


def takes_steps(pipeline: Pipeline) -> bool:
    return "steps" in options(type(pipeline.generator).generate)


def sweep(
    name: str, pipeline: Pipeline, config: RunConfig, steps: Sequence[int], log: Callable[[str], None] = print
) -> Sweep:
    """Draws a run's evaluation prompts with each number of steps, and as it is where its generator takes none.

    Args:
        config: The run's: its metrics, of which the headlines are kept, and its other options of drawing.
        steps: Numbers; those that the generator refuses are left out, with a note.
    """
    dataset = read_dataset(config.data)
    metrics = open_metrics(config, dataset)
    trials, notes = [], []
    for number in sorted(set(steps)) if takes_steps(pipeline) else [None]:
        drawing = config.sample.options if number is None else {**config.sample.options, "steps": number}
        if refusal := _refusal(pipeline, drawing):
            notes.append(f"{name} was not drawn in {number} steps: {refusal}.")
            continue
        log(f"  in {number} steps" if number else "  as it is: it takes no steps")
        scores = headlines(metrics, score_generated(config, pipeline, dataset, metrics, drawing))
        trials.append(Trial(name, number, seconds_a_image(pipeline, drawing), scores))
    return Sweep(trials, notes)


def _refusal(pipeline: Pipeline, drawing: Mapping[str, Any]) -> str:
    """Why the generator cannot draw so; "" if it can."""
    own = {key: value for key, value in drawing.items() if key != "decoder"}
    try:
        noise_spec(pipeline.generator, validate_options(pipeline.generator, "generate", own))
    except ConfigError as error:
        return str(error)
    return ""


def metric_names(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.scores))


def wide_table(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """To be read: a trial a row, a metric a column."""
    names = metric_names(trials)
    rows = [
        [*_first(trial), *(f"{trial.scores[name]:.3f}" if name in trial.scores else "" for name in names)]
        for trial in trials
    ]
    return ["run", "steps", SECONDS, *names], rows


def long_table(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """To be computed with: a row for each number, as it was measured."""
    rows = [[*_first(trial), name, f"{value:.6g}"] for trial in trials for name, value in trial.scores.items()]
    return ["run", "steps", SECONDS, "metric", "value"], rows


def _first(trial: Trial) -> list[str]:
    return [trial.run, "" if trial.steps is None else str(trial.steps), f"{trial.seconds:.4g}"]


def plots(trials: Sequence[Trial]) -> dict[str, str]:
    """By metric a plot of it over the time, as SVG: a line a run, or a point for a run that takes no steps."""
    drawn = {}
    for metric in metric_names(trials):
        lines = []
        for run in dict.fromkeys(trial.run for trial in trials if metric in trial.scores):
            own = [trial for trial in trials if trial.run == run]
            points = [(trial.seconds, trial.scores[metric]) for trial in own]
            lines.append(Line(run, points, ["" if trial.steps is None else str(trial.steps) for trial in own]))
        drawn[metric] = line_plot(lines, f"{SECONDS}; beside a point, its steps", metric, logarithmic=True)
    return drawn
