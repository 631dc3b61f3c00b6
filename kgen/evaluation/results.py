"""The results of an evaluation, and the file that holds them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from kgen.contracts.metric import Metric, Plain
from kgen.errors import RunError
from kgen.plugins.discovery import component_id
from kgen.storage.files import write_text
from kgen.storage.json_file import check_json, read_json
from kgen.storage.ownership import EVALUATION_TITLE

FORMAT = 2
"""The number of the file's format. Files of format 1 are mappings of split and name to a value, without a protocol."""

LIKELIHOOD = "likelihood"
"""The name of the metric whose number is `BITS`."""

BITS = "bits per dimension"
"""The name of the number for the negative log-likelihood. Lower is better."""

Better = Literal["higher", "lower"]
Scores = dict[str, dict[str, float]]
"""Numbers by split and by name."""


@dataclass(frozen=True)
class Result:
    """A number that a metric has measured, once per seed.

    Args:
        metric: The name of the metric.
        split: The split of the prompts, or of the images whose likelihood was measured.
        name: The name of the number.
        values: The number by seed.
        protocol: Everything that determines the number, besides the model and how it samples (its sampling options and
            its guide), which are what an evaluation compares. Numbers are comparable only if their protocols are equal.
        better: Whether higher or lower is better; None: it is not known.
        headline: Whether this is the main number of the metric.
    """

    metric: str
    split: str
    name: str
    values: Mapping[int, float]
    protocol: Mapping[str, Plain] = field(default_factory=dict)
    better: Better | None = None
    headline: bool = False

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean over the seeds; None for a single seed."""
        count = len(self.values)
        return float(np.std(list(self.values.values()), ddof=1)) / math.sqrt(count) if count > 1 else None

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that identify the protocol; "" if it is not known, as in older files."""
        text = json.dumps(dict(self.protocol), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12] if self.protocol else ""

    @property
    def title(self) -> str:
        """The name of the metric, followed by the name of the number."""
        return self.name if self.metric == LIKELIHOOD else f"{self.metric} {self.name}".strip()

    @property
    def label(self) -> str:
        """The title, followed by the split unless it is "train", or unless the number is a likelihood.

        The split of a likelihood is part of its protocol: it is the first that has images, of "validation", "holdout"
        and "train".
        """
        return self.title if self.split == "train" or self.metric == LIKELIHOOD else f"{self.title} ({self.split})"


def metric_results(
    name: str,
    metric: Metric,
    split: str,
    numbers: Mapping[str, Mapping[int, float]],
    known: Mapping[str, Plain],
) -> list[Result]:
    """The results of a metric that has computed its numbers.

    Args:
        name: The name of the metric.
        metric: The metric. If it has no protocol, its options are recorded instead.
        split: The split.
        numbers: The values by the name of the number, and by seed.
        known: The part of the protocol that kgen knows. It has priority over the protocol of the metric.
    """
    own = metric.protocol() or {f"option {option}": str(value) for option, value in metric.config.items()}
    protocol = {"metric": component_id(metric), **own, **known}
    main = next(iter(numbers), "") if metric.headline is None else metric.headline
    return [
        Result(name, split, number, values, protocol, metric.better, number == main)
        for number, values in numbers.items()
    ]


def to_scores(results: Sequence[Result]) -> Scores:
    """The means by split and title, without protocols and standard errors."""
    scores: Scores = {}
    for result in results:
        scores.setdefault(result.split, {})[result.title] = result.mean
    return scores


class _Stored(TypedDict):
    metric: str
    split: str
    name: str
    values: dict[int, float | None]
    mean: float | None
    standard_error: float | None
    protocol: dict[str, str | bool | int | float | None]
    fingerprint: str
    better: Better | None
    headline: bool


class _File(TypedDict):
    title: str
    format: Literal[2]
    results: list[_Stored]


def write_results(path: Path, results: Sequence[Result], measured: Mapping[str, Any] | None = None) -> None:
    """Writes a file of results. Numbers that are not finite become null.

    Args:
        path: The file.
        results: The results.
        measured: What was measured, as plain data, for a file outside of the run: the run, and the options.
    """
    stored: list[dict[str, Any]] = [
        {
            "metric": result.metric,
            "split": result.split,
            "name": result.name,
            "values": {str(seed): _finite(value) for seed, value in result.values.items()},
            "mean": _finite(result.mean),
            "standard_error": _finite(result.standard_error),
            "protocol": dict(result.protocol),
            "fingerprint": result.fingerprint,
            "better": result.better,
            "headline": result.headline,
        }
        for result in results
    ]
    told = {} if measured is None else {"measured": dict(measured)}
    content = {"title": EVALUATION_TITLE, "format": FORMAT, **told, "results": stored}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: Path) -> list[Result]:
    """Reads a file of results, with NaN for null; [] if there is no file.

    Raises:
        RunError: the file is damaged, or has a newer format.
    """
    if not path.is_file():
        return []
    content = read_json(path, dict[str, Any])
    if "format" not in content:
        scores = check_json(path, json.dumps(content), dict[str, dict[str, float | None]])
        return [_old_result(split, name, value) for split, numbers in scores.items() for name, value in numbers.items()]
    if content["format"] != FORMAT:
        newer = "install a newer kgen"
        raise RunError(f"{path} has format {content['format']}, and this kgen reads only {FORMAT}: {newer}")
    file = check_json(path, json.dumps(content), _File)
    return [
        Result(
            stored["metric"],
            stored["split"],
            stored["name"],
            {seed: math.nan if value is None else value for seed, value in stored["values"].items()},
            {key: value for key, value in stored["protocol"].items() if value is not None},
            stored["better"],
            stored["headline"],
        )
        for stored in file["results"]
    ]


def _old_result(split: str, title: str, value: float | None) -> Result:
    metric, _, name = (LIKELIHOOD, "", BITS) if title == BITS else title.partition(" ")
    better: Better | None = "lower" if title == BITS else None
    return Result(metric, split, name, {0: math.nan if value is None else value}, better=better)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
