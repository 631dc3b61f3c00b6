"""The facts about a run: its components, its costs and its scores."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgen.comparison.steps import SECONDS, seconds_per_image
from kgen.config import RunConfig
from kgen.evaluation.columns import ERROR
from kgen.evaluation.meanings import Meanings
from kgen.evaluation.results import BITS, Better
from kgen.experiments.directory import RunDirectory
from kgen.experiments.manifest import TRAINED
from kgen.pipeline.model import Pipeline
from kgen.plugins.discovery import registry
from kgen.reporting.digits import few_digits
from kgen.training.journal import read_rows

Facts = Mapping[str, str | int | float | None]
"""The facts about one run, by name; None: the number does not exist."""

BETTER: Mapping[str, Better] = {BITS: "lower"}
"""Whether higher or lower numbers are better, for numbers that do not come from a metric."""

ARROWS: Mapping[Better, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}

LAST = "peak MiB"

MEANINGS: Meanings = {
    "parameters": "The number of trained weights.",
    "decoder parameters": "The number of all weights of the decoder.",
    "training steps": "The number of steps of the generator's training.",
    "training s": "The time of this training, in seconds.",
    "images/s trained": "The median number of images per second in this training.",
    "images/s sampled": "The number of images per second of generating, without the compilation.",
    "sampling steps": "The number of consecutive sampling steps of an image.",
    "likelihood": "Whether the bits per dimension are exact, a bound or an estimate.",
    LAST: "The largest memory of the process that trained the run.",
    SECONDS: "The time of generating one image, without the compilation.",
}
"""What the numbers of a comparison are that do not come from an evaluation."""


def facts(directory: RunDirectory, config: RunConfig, pipeline: Pipeline, scores: Mapping[str, float]) -> Facts:
    """The facts about a finished run, including the measured speed of sampling.

    Args:
        directory: The run directory.
        config: Its configuration.
        pipeline: Its pipeline.
        scores: Its scores by column.
    """
    manifest, options = directory.read_manifest(*TRAINED), config.sample.options
    bits = {name: value for name, value in scores.items() if name.startswith(BITS)}
    speeds = [float(row["images_per_second"]) for row in read_rows(directory.metrics) if row.get("images_per_second")]
    return {
        **{kind: manifest["components"][kind]["id"] for kind in ("generator", "encoder", "decoder", "dataset")},
        "parameters": sum(int(np.prod(variable.shape)) for variable in pipeline.trainable_variables),
        "decoder parameters": sum(int(np.prod(variable.shape)) for variable in pipeline.decoder.weights),
        "training steps": manifest["step"],
        "training s": manifest["timings"]["training_seconds"],
        "images/s trained": statistics.median(speeds) if speeds else None,
        "images/s sampled": 1 / seconds_per_image(pipeline, options),
        "sampling steps": pipeline.generator.num_sampling_steps(**options),
        **(bits or {BITS: None}),
        "likelihood": pipeline.generator.likelihood_label(**config.evaluate.likelihood.options),
        **{name: value for name, value in scores.items() if name not in bits},
        LAST: manifest.get("peak_memory_mib"),
    }


def better_scores(config: RunConfig) -> dict[str, Better]:
    """Whether higher or lower scores are better, by the prefix of their names, for metrics that declare it."""
    found: dict[str, Better] = {}
    for metric in config.evaluate.metrics:
        better = registry().find("metric", metric.name).load().better
        if better is not None:
            found |= {metric.name: better, metric.name.split("/")[-1]: better}
    return found


def different_keys(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The keys of run files whose values differ, with one value per run; "": the key does not exist."""
    flat = [_flat({**config.dump(), "name": None}) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key, "") for one in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _flat(data: Any, key: str = "") -> dict[str, str]:
    """Flattens nested mappings to keys with dots, with the values as text."""
    if not isinstance(data, dict) or not data:
        return {key: data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}
    parts = [_flat(value, f"{key}.{name}" if key else str(name)) for name, value in data.items()]
    return {name: value for part in parts for name, value in part.items()}


@dataclass(frozen=True)
class Table:
    """The facts about several runs.

    Args:
        runs: The names of the runs.
        facts: The facts about the runs, in the same order.
        better: Whether higher or lower numbers are better, by the prefix of their names.
    """

    runs: Sequence[str]
    facts: Sequence[Facts]
    better: Mapping[str, Better]

    @property
    def keys(self) -> list[str]:
        """The names of the facts that a run has, in the order of the runs; the likelihood's only beside its number."""
        keys = dict.fromkeys(key for facts in self.facts for key, value in facts.items() if value is not None)
        if not any(key.startswith(BITS) for key in keys):
            keys.pop("likelihood", None)
        return [*(key for key in keys if key != LAST), LAST]

    def label(self, key: str) -> str:
        """A name with an arrow for the better direction. A standard error has none."""
        found = (better for start, better in self.better.items() if key == start or key.startswith(f"{start} "))
        better = None if key.endswith(ERROR) else next(found, None)
        return key if better is None else f"{key} {ARROWS[better]}"

    def to_read(self) -> tuple[list[str], list[list[str]]]:
        """The head and one row per run, with few digits."""
        keys = self.keys
        rows = [[run, *(_short(own.get(key)) for key in keys)] for run, own in zip(self.runs, self.facts, strict=True)]
        return ["run", *map(self.label, keys)], rows

    def to_compute(self) -> tuple[list[str], list[list[str]]]:
        """The same as `to_read`, but with plain names and all digits."""
        keys = self.keys
        rows = [[run, *(_whole(own.get(key)) for key in keys)] for run, own in zip(self.runs, self.facts, strict=True)]
        return ["run", *keys], rows


def _short(value: str | int | float | None) -> str:
    return few_digits(value) if isinstance(value, int | float) else _whole(value)


def _whole(value: str | int | float | None) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
