"""The facts by which runs are compared: what they are made of, what they cost, and how good they are."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kgen.comparison.sweep import seconds_a_image
from kgen.config import RunConfig
from kgen.pipeline.pipeline import Pipeline
from kgen.plugins.discovery import registry
from kgen.runs.directory import RunDirectory
from kgen.runs.manifest import TRAINED
from kgen.runs.scoring import BITS, in_split
from kgen.training.journal import read_rows

Better = Literal["higher", "lower"]
Facts = Mapping[str, str | int | float | None]
"""Of one run, by name; None: there is no such number."""

BETTER: Mapping[str, Better] = {BITS: "lower"}
"""Whether higher or lower numbers are better, of those that are not a metric's."""

ARROWS: Mapping[Better, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}

LAST = "peak MiB"


def facts(directory: RunDirectory, config: RunConfig, pipeline: Pipeline) -> Facts:
    """What is known of a finished run, and how fast it draws."""
    manifest, drawing = directory.read_manifest(*TRAINED), config.sample.options
    speeds = [float(row["images_per_second"]) for row in read_rows(directory.metrics) if row.get("images_per_second")]
    scores = {
        name if name == BITS else in_split(name, split): value
        for split, numbers in directory.read_scores().items()
        for name, value in numbers.items()
    }
    return {
        **{kind: manifest["components"][kind]["id"] for kind in ("generator", "encoder", "decoder", "dataset")},
        "parameters": sum(int(np.prod(variable.shape)) for variable in pipeline.trainable_variables),
        "decoder parameters": sum(int(np.prod(variable.shape)) for variable in pipeline.decoder.weights),
        "training steps": manifest["step"],
        "training s": manifest["timings"]["training_seconds"],
        "images/s trained": statistics.median(speeds) if speeds else None,
        "images/s drawn": 1 / seconds_a_image(pipeline, drawing),
        "steps to draw": pipeline.generator.num_sampling_steps(**drawing),
        BITS: scores.pop(BITS, None),
        "likelihood": pipeline.generator.likelihood_label(**config.evaluate.likelihood.options),
        **scores,
        LAST: manifest.get("peak_memory_mib"),
    }


def better_scores(config: RunConfig) -> dict[str, Better]:
    """The direction of a run's metrics, by the name that their scores begin with; without those that say none."""
    found: dict[str, Better] = {}
    for metric in config.evaluate.metrics:
        better = registry().find("metric", metric.name).load().better
        if better is not None:
            found |= {metric.name: better, metric.name.split("/")[-1]: better}
    return found


def different_keys(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The keys of run files, with dots, whose values differ, and the values, one per run; "": there is no such key."""
    flat = [_flat({**config.dump(), "name": None}) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key, "") for one in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _flat(data: Any, key: str = "") -> dict[str, str]:
    """Nested mappings -> keys with dots, and their values as text."""
    if not isinstance(data, dict) or not data:
        return {key: data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}
    parts = [_flat(value, f"{key}.{name}" if key else str(name)) for name, value in data.items()]
    return {name: value for part in parts for name, value in part.items()}


@dataclass(frozen=True)
class Table:
    """The facts of several runs.

    Args:
        runs: Their names.
        facts: In the same order.
        better: Direction of numbers, by the beginning of their name.
    """

    runs: Sequence[str]
    facts: Sequence[Facts]
    better: Mapping[str, Better]

    @property
    def keys(self) -> list[str]:
        """The names of all facts, in an order that suits every run."""
        keys = list(dict.fromkeys(key for facts in self.facts for key in facts))
        return [*(key for key in keys if key != LAST), LAST]

    def label(self, key: str) -> str:
        """A name with an arrow that says which numbers are better."""
        better = next(
            (
                interpolation
                for start, interpolation in self.better.items()
                if key == start or key.startswith(f"{start} ")
            ),
            None,
        )
        return key if better is None else f"{key} {ARROWS[better]}"

    def to_read(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows, a run each, with few digits."""
        keys = self.keys
        rows = [[run, *(_short(own.get(key)) for key in keys)] for run, own in zip(self.runs, self.facts, strict=True)]
        return ["run", *map(self.label, keys)], rows

    def to_compute(self) -> tuple[list[str], list[list[str]]]:
        """As `to_read`, with plain names and all digits."""
        keys = self.keys
        rows = [[run, *(_whole(own.get(key)) for key in keys)] for run, own in zip(self.runs, self.facts, strict=True)]
        return ["run", *keys], rows


def _short(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else _whole(value)


def _whole(value: str | int | float | None) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
