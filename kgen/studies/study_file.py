"""The content of a study file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field

from kgen.config.sections import Section
from kgen.config.source import Source
from kgen.options import check
from kgen.options.validation import KeyPath

OWNER = "a study"

COLUMNS = ("trial", "metric", "split", "name", "evaluation_seed", "value", "fingerprint")
"""The columns of the table for programs, besides the axes."""

Text = Annotated[str, Field(min_length=1)]
Settings = dict[str, Any]


class PlotConfig(Section):
    """The settings of a plot, or of several plots with the same horizontal axis."""

    x: Text | None = None
    """The horizontal axis: an axis of the study, or a number, "frechet distance"; null: the last numeric axis."""
    y: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """The numbers to plot, one plot for each; null: the main number of each metric."""
    line: tuple[Text, ...] | None = None
    """The axes whose values share a line; null: all other axes."""
    label: Text | None = None
    """The axis whose values are written at the points; null: no texts, or the last axis if `x` is a number."""
    log: bool = False
    """Whether the horizontal axis is logarithmic. All its numbers must then be greater than 0."""


class StudyFile(Section):
    """The content of a study file."""

    model_config = pydantic.ConfigDict(populate_by_name=False)

    run: str | dict[str, Any]
    """A run file, relative to the study file, or one that kgen ships; its content; or the directory of a trained run,
    which is then only evaluated."""
    settings: Settings = Field(default_factory=dict, alias="set")
    """Keys of the run file to change in all trials."""
    over: Annotated[dict[str, list[Any] | dict[str, Settings]], Field(min_length=1)]
    """The axes. An axis is a key of the run file with a list of values; a name with a mapping of names to keys and
    values; or a variable with a list of values, for which {NAME} stands in the values of such a mapping."""
    runs: dict[str, Settings] = Field(default_factory=dict)
    """Runs to be trained first, by name, each with the keys that it changes. A value refers to one by {runs}/NAME. With
    `stage: encoder` or `stage: decoder`, only this part is trained."""
    metrics: Annotated[list[Any], Field(min_length=1)] | None = None
    """Metrics that replace those of the run. The likelihood is then measured only if `evaluate` says so."""
    evaluate: Settings = Field(default_factory=dict)
    """Keys of the section `evaluate` to change, such as `images` and `seeds`."""
    plot: Annotated[tuple[PlotConfig, ...], Field(min_length=1)] = (PlotConfig(),)
    """The plots: a mapping, or a list of mappings."""


def is_study(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a study, and not a run file."""
    return "over" in data or "run" in data


def checked_file(source: Source) -> StudyFile:
    """Validates the content of a study file on its own, without the run.

    Raises:
        ConfigError: the message lists all errors, one per line, each with its place.
    """
    checked, problems = check(StudyFile, _one_or_several(source.data), OWNER)
    for path, message in problems:
        source.report(plot_path(source, path[1], *path[2:]) if path[:1] == ("plot",) and path[1:] else path, message)
    source.raise_problems()
    assert isinstance(checked, StudyFile)
    return checked


def _one_or_several(data: dict[str, Any]) -> dict[str, Any]:
    """The content of a study file, in which a single plot, and a single name in a plot, become lists."""
    plots: list[Any] = data["plot"] if isinstance(data.get("plot"), list) else [data.get("plot")]
    if not all(isinstance(plot, dict) for plot in plots):
        return data
    listed = [
        {key: [value] if key in ("y", "line") and isinstance(value, str) else value for key, value in plot.items()}
        for plot in plots
    ]
    return {**data, "plot": listed}


def plot_path(source: Source, number: Any, *keys: Any) -> KeyPath:
    """The path of a key of a plot in the study file, where a single plot has no number."""
    return ("plot", *((number,) if isinstance(source.data["plot"], list) else ()), *keys)
