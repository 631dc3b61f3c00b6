"""Measures quality over time: images of the same prompts with different numbers of sampling steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgen.config import RunConfig
from kgen.contracts.capabilities import Capability, option_of
from kgen.errors import ConfigError
from kgen.evaluation.scoring import score_generated
from kgen.experiments.experiment import open_experiment
from kgen.pipeline.model import Pipeline
from kgen.pipeline.sampler import noise_spec, validate_options
from kgen.reporting.digits import few_digits
from kgen.reporting.plot import Line, line_plot

TIMED_IMAGES = 32
"""Number of images that are generated to measure the speed of sampling."""

SECONDS = "seconds per image"


@dataclass(frozen=True)
class Measurement:
    """What was measured of one run with one number of sampling steps.

    Args:
        run: The name of the run.
        steps: Number of sampling steps; None for a generator without this option.
        seconds: Seconds per image, without compilation.
        scores: Scores by the name of the metric.
    """

    run: str
    steps: int | None
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Measurements:
    """The measurements of a run, and notes on numbers of steps that were left out."""

    measured: Sequence[Measurement]
    notes: Sequence[str]


def seconds_per_image(pipeline: Pipeline, options: Mapping[str, Any]) -> float:
    """Returns the time per image of generating `TIMED_IMAGES` images with these sampling options.

    It does not include the compilation.
    """
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        pipeline.generate([pipeline.encoder.null], n=TIMED_IMAGES, batch_size=TIMED_IMAGES, **options)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / TIMED_IMAGES


def measure_steps(
    name: str, pipeline: Pipeline, config: RunConfig, steps: Sequence[int], log: Callable[[str], None] = print
) -> Measurements:
    """Scores a run's evaluation prompts with each number of steps, or once if its generator has no steps.

    Args:
        name: The name of the run.
        pipeline: The trained pipeline.
        config: The configuration of the run, with its metrics (of which only the headlines are used) and the other
            sampling options.
        steps: Numbers of steps. Those that the generator refuses are left out, with a note.
        log: Receives a line about each number of steps.
    """
    experiment = open_experiment(config, trained=True)
    measured, notes = [], []
    option = option_of(type(pipeline.generator).generate, Capability.STEPS)
    for number in [None] if option is None else sorted(set(steps)):
        options = dict(config.sample.options) if option is None else {**config.sample.options, option: number}
        if refusal := _refusal(pipeline, options):
            notes.append(f"{name} was not sampled in {number} steps: {refusal}.")
            continue
        log(f"  in {number} steps" if number else "  without the option steps")
        found = score_generated(experiment, pipeline, options)
        scores = {result.label: result.mean for result in found if result.headline}
        measured.append(Measurement(name, number, seconds_per_image(pipeline, options), scores))
    return Measurements(measured, notes)


def _refusal(pipeline: Pipeline, options: Mapping[str, Any]) -> str:
    """Says why the generator refuses the sampling options; "" if it accepts them."""
    own = {key: value for key, value in options.items() if key != "decoder"}
    try:
        noise_spec(pipeline.generator, validate_options(pipeline.generator, "generate", own))
    except ConfigError as error:
        return str(error)
    return ""


def metric_names(measured: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(name for one in measured for name in one.scores))


def wide_table(measured: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """A table to read, with one row per measurement and one column per metric."""
    names = metric_names(measured)
    rows = [
        [*_first(one), *(few_digits(one.scores[name]) if name in one.scores else "" for name in names)]
        for one in measured
    ]
    return ["run", "steps", SECONDS, *names], rows


def long_table(measured: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """A table to compute with, with one row per measured number."""
    rows = [[*_first(one), name, f"{value:.6g}"] for one in measured for name, value in one.scores.items()]
    return ["run", "steps", SECONDS, "metric", "value"], rows


def _first(one: Measurement) -> list[str]:
    return [one.run, "" if one.steps is None else str(one.steps), f"{one.seconds:.4g}"]


def plots(measured: Sequence[Measurement]) -> dict[str, str]:
    """Plots of each metric over time, as SVG, with one line per run, or a point for a run without steps."""
    found = {}
    for metric in metric_names(measured):
        lines = []
        for run in dict.fromkeys(one.run for one in measured if metric in one.scores):
            own = [one for one in measured if one.run == run]
            points = [(one.seconds, one.scores[metric]) for one in own]
            lines.append(Line(run, points, ["" if one.steps is None else str(one.steps) for one in own]))
        found[metric] = line_plot(lines, f"{SECONDS} (numbers: steps)", metric, logarithmic=True)
    return found
