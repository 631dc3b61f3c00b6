"""Checks what the plots of a study refer to: axes, and the numbers of metrics."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kgen.config.overrides import Setting
from kgen.config.source import Source
from kgen.errors import ConfigError
from kgen.evaluation.results import BITS
from kgen.options.validation import KeyPath, dotted, show
from kgen.studies.axes import Axis, find_axis, short_names
from kgen.studies.study_file import PlotConfig, StudyFile, plot_path


def check_plots(source: Source, study: StudyFile, axes: Sequence[Axis], run: Mapping[str, Any]) -> list[Setting]:
    """Reports axes and metrics that do not exist, and logarithmic axes whose values have no logarithm.

    Args:
        source: The study, which receives the problems.
        study: Its content.
        axes: The axes of the table.
        run: The content of the run file.

    Returns:
        The numbers that the plots refer to, whose names can only be checked when the metrics are tried.
    """
    metrics, listed = _metrics(study, run), ", ".join(short_names(axes).values()) or "none"
    numbers = []
    for key, name, path in _plotted(source, study.plot):
        if find_axis(axes, name) is not None and key != "y":
            continue
        is_number = key in ("x", "y")
        if is_number and (metrics is None or name.startswith((BITS, *(f"{metric} " for metric in metrics)))):
            numbers.append(Setting(dotted(path), name, source.at(path)))
            continue
        known = f"the axes are: {listed}" if key != "y" else ""
        known += f"{'; ' if known else ''}the metrics are: {', '.join(metrics or ())}" if is_number else ""
        what = {"x": "axis or number", "y": "number"}.get(key, "axis")
        source.report(path, f"there is no {what} '{name}'{_near(name, axes, key, metrics or ())} ({known})")
    for number, plot in enumerate(study.plot):
        _check_horizontal(source, plot, number, axes)
    return numbers


def require_numbers(numbers: Sequence[Setting], labels: Collection[str], untried: Collection[str] = ()) -> None:
    """Raises ConfigError if plots refer to numbers that no trial measures.

    Args:
        numbers: The numbers, as `check_plots` returns them.
        labels: The labels of all numbers that the trials measure: see `Result.label`.
        untried: The names of metrics whose numbers are not known yet.
    """
    wrong = []
    for number in numbers:
        if number.value not in labels and not number.value.startswith(tuple(f"{name} " for name in untried)):
            near = difflib.get_close_matches(number.value, labels, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            listed = ", ".join(sorted(labels)) or "none"
            what = f"{number.key}: there is no number '{number.value}'{hint} (the numbers are: {listed})"
            wrong.append((number.origin, f"{number.origin.label}: {what}"))
    if wrong:
        raise ConfigError("\n".join(text for _, text in sorted(dict.fromkeys(wrong), key=lambda each: each[0].order)))


def horizontal_axis(axes: Sequence[Axis], plot: PlotConfig) -> Axis | None:
    """The axis to plot over; None if the plot is over a number, or if there is no axis."""
    if plot.x is not None:
        return find_axis(axes, plot.x)
    numeric = [axis for axis in axes if axis.numeric]
    return (numeric or list(axes) or [None])[-1]  # type: ignore[list-item]


def _check_horizontal(source: Source, plot: PlotConfig, number: int, axes: Sequence[Axis]) -> None:
    """Reports a logarithmic axis whose values have no logarithm, and a number that is plotted over itself."""
    if plot.x is not None and plot.x in (plot.y or ()):
        source.report(plot_path(source, number, "y"), f"'{plot.x}' is also the horizontal axis: choose another number")
    axis = horizontal_axis(axes, plot)
    if not plot.log or axis is None:
        return
    path, name = plot_path(source, number, "log"), short_names(axes)[axis.name]
    if not axis.numeric:
        source.report(path, f"the values of the axis '{name}' are not numbers, and have no logarithm: leave this out")
    elif low := [value.plain for value in axis.values if value.number is not None and value.number <= 0]:
        source.report(path, f"the axis '{name}' has the value {show(low[0])}, which has no logarithm: leave one out")


def _plotted(source: Source, plots: Sequence[PlotConfig]) -> Iterator[tuple[str, str, KeyPath]]:
    """The names that plots refer to, each with its key, and the path of that key in the study file."""
    for number, plot in enumerate(plots):
        for key, names in (("x", (plot.x,)), ("line", plot.line or ()), ("label", (plot.label,)), ("y", plot.y or ())):
            yield from ((key, name, plot_path(source, number, key)) for name in names if name is not None)


def _near(name: str, axes: Sequence[Axis], key: str, metrics: Collection[str]) -> str:
    """Suggests the axis that is closest to a name, or the metric that is closest to its first word."""
    near = [] if key == "y" else difflib.get_close_matches(name, short_names(axes).values(), n=1)
    if not near and key in ("x", "y"):
        first, space, rest = name.partition(" ")
        near = [f"{metric}{space}{rest}" for metric in difflib.get_close_matches(first, metrics, n=1)]
    return f"; did you mean '{near[0]}'?" if near else ""


def _metrics(study: StudyFile, run: Mapping[str, Any]) -> list[str] | None:
    """The names of the metrics, as numbers begin with them; None if trials differ in them."""
    given = study.metrics or study.evaluate.get("metrics")
    if given is None:
        settings = [study.settings, *(v for a in study.over.values() if isinstance(a, dict) for v in a.values())]
        if any(key.startswith("evaluate") for key in (*study.over, *(key for own in settings for key in own))):
            return None
        evaluate = run.get("evaluate")
        given = evaluate.get("metrics") if isinstance(evaluate, dict) else None
    if not isinstance(given, list | tuple | None):
        return None  # the check of the run's configuration reports it
    names = [metric.get("name") if isinstance(metric, dict) else metric for metric in given or ()]
    return [part for name in names if isinstance(name, str) for part in dict.fromkeys((name.split("/")[-1], name))]
