"""The table and the plots of a sweep: means, standard errors, and what never shares a column."""

from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kgen.config.source import Origin
from kgen.evaluation.results import Result
from kgen.reporting.tables import csv_text
from kgen.studies.axes import Axis, Value, key_axis
from kgen.studies.study_file import PlotConfig
from kgen.sweeps.plots import Plots, file_names, make_plots
from kgen.sweeps.table import make_table, to_compute

HERE = Origin(0, "")
SEEDS = key_axis("seed", [(seed, HERE) for seed in (0, 1, 2)])
SCALES = key_axis("sample.options.guidance", [(scale, HERE) for scale in (4, 1, 2.5)])
METHODS = Axis("method", (Value("plain", ()), Value("$x$ <b>", ())), named=True)


def result(*values: float, metric: str = "frechet", name: str = "distance", images: int = 500, **more: Any) -> Result:
    more = {"better": "lower", "headline": True, **more}
    return Result(metric, "train", name, dict(enumerate(values)), {"images": images}, **more)


def trials(
    axes: Sequence[Axis], results: Mapping[tuple[str, ...], Sequence[Result] | None]
) -> list[tuple[Mapping[str, Value], Sequence[Result] | None]]:
    """Trials by the labels of their values."""
    by_label = [{value.label: value for value in axis.values} for axis in axes]
    names = [axis.name for axis in axes]
    return [
        (dict(zip(names, (own[label] for own, label in zip(by_label, labels, strict=True)), strict=True)), found)
        for labels, found in results.items()
    ]


def test_numbers_are_means_over_trainings_with_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, (3, 4))  # trainings, seeds of the evaluation
    axes = [SEEDS, METHODS]
    made = make_table(axes, trials(axes, {(str(s), "plain"): [result(*values[s])] for s in range(3)}))
    (row,) = made.rows
    cell = row.cells["frechet distance"]
    means = values.mean(axis=1)
    assert cell.mean == pytest.approx(means.mean()) and cell.count == 3
    assert cell.error == pytest.approx(math.sqrt(((means - means.mean()) ** 2).sum() / 2 / 3))
    assert [axis.name for axis in made.axes] == ["method"]


def test_without_repeated_trainings_the_error_is_that_of_the_evaluation() -> None:
    axes = [SCALES]
    made = make_table(axes, trials(axes, {("4",): [result(1.0, 2.0, 4.5)], ("1",): [result(1.0)]}))
    first, second = (row.cells["frechet distance"] for row in made.rows)
    assert (first.mean, first.error) == pytest.approx((2.5, np.std([1.0, 2.0, 4.5], ddof=1) / math.sqrt(3)))
    assert second.error is None
    head, rows = made.to_read()
    assert head == ["guidance", "frechet distance \N{DOWNWARDS ARROW}"]
    assert rows == [["4", "2.500 ± 1.041"], ["1", "1.000"]]


def test_trials_without_results_are_counted_and_shown() -> None:
    axes = [SEEDS, SCALES]
    found = {("0", "4"): [result(1.0)], ("1", "4"): [result(3.0)], ("2", "4"): None, ("0", "1"): None}
    made = make_table(axes, trials(axes, found))
    assert [(row.trials, row.finished) for row in made.rows] == [(3, 2), (1, 0)]
    assert made.to_read()[1] == [["4", "2.000 ± 1.000 (2 of 3 seeds)"], ["1", "\N{EM DASH}"]]


def test_numbers_of_different_protocols_share_no_column() -> None:
    axes = [SCALES]
    found = {("4",): [result(1.0)], ("1",): [result(9.0, images=5000)], ("2.5",): [result(2.0)]}
    made = make_table(axes, trials(axes, found))
    assert [column.title for column in made.columns] == ["frechet distance [1]", "frechet distance [2]"]
    assert [sorted(row.cells) for row in made.rows] == [
        ["frechet distance [1]"],
        ["frechet distance [2]"],
        ["frechet distance [1]"],
    ]
    assert "differ in images: 500, 5,000" in made.notes[0]
    plots = make_plots(made, PlotConfig())
    assert list(plots.svgs) == ["frechet distance [1]", "frechet distance [2]"]
    assert [len(points(svg)) for svg in plots.svgs.values()] == [2, 1]


def test_the_table_to_compute_with_has_every_number() -> None:
    axes = [SEEDS, SCALES]
    found = trials(axes, {("0", "4"): [result(1 / 3, 2.0), result(7.0, metric="other", name="n", headline=False)]})
    head, rows = to_compute(axes, [("name", *found[0]), ("none", found[0][0], None)])
    first, *others = csv.DictReader(io.StringIO(csv_text(head, rows)))
    assert first["trial"] == "name" and first["seed"] == "0" and first["sample.options.guidance"] == "4"
    assert float(first["value"]) == 1 / 3 and first["evaluation_seed"] == "0" and first["metric"] == "frechet"
    assert [row["evaluation_seed"] for row in others] == ["1", "0"] and others[1]["name"] == "n"
    assert len(first["fingerprint"]) == 12


def points(svg: str) -> list[tuple[float, float]]:
    """The marks of the curves in a plot."""
    axes = ElementTree.fromstring(svg).find(".//{*}g[@id='axes_1']")
    assert axes is not None
    lines = [group for group in axes if group.attrib.get("id", "").startswith("line2d")]
    marks = [[(float(u.attrib["x"]), float(u.attrib["y"])) for u in line.findall(".//{*}use")] for line in lines]
    return [mark for line in marks for mark in line]


def texts(svg: str) -> list[str]:
    return [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def test_a_plot_is_over_the_last_numeric_axis_in_its_order_with_a_line_for_each_other_value() -> None:
    axes = [SEEDS, SCALES, METHODS]
    found = {
        (str(seed), str(scale), method): [result(scale + seed), result(0.5, metric="b", name="n", headline=False)]
        for seed in (0, 1)
        for scale in (4, 1, 2.5)
        for method in ("plain", "$x$ <b>")
    }
    plots = make_plots(make_table(axes, trials(axes, found)), PlotConfig())
    assert list(plots.svgs) == ["frechet distance"] and not plots.notes
    svg = plots.svgs["frechet distance"]
    assert {"plain", "$x$ <b>", "guidance", "frechet distance"} <= set(texts(svg))
    marks = points(svg)
    xs = [x for x, _ in marks[:3]]
    assert xs == sorted(xs) and (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(0.5)
    assert "LineCollection" in svg, "there are no error bars"
    assert file_names(plots) == {"frechet distance": "sweep.svg"}
    names = file_names(Plots(dict.fromkeys(["R@1", "r-1", "r 1 of " + "x" * 90, "r 1 of " + "x" * 91], svg), []))
    assert len(set(names.values())) == 4 and names["R@1"] == "sweep-r-1.svg" and names["r-1"] == "sweep-r-1-2.svg"


def test_a_number_over_another_one_has_texts_at_its_points() -> None:
    axes = [SCALES, METHODS]
    found = {
        (str(scale), "plain"): [result(2.0 * scale), result(10.0 - scale, metric="attributes", name="accuracy")]
        for scale in (4, 1, 2.5)
    }
    table = make_table(axes, trials(axes, found))
    chosen = PlotConfig(x="attributes accuracy", y=("frechet distance",), line=("method",), label="guidance")
    svg = make_plots(table, chosen).svgs["frechet distance"]
    assert {"4", "1", "2.5", "attributes accuracy (texts: guidance)", "plain"} <= set(texts(svg))
    marks = points(svg)
    assert len(marks) == 3 and marks[0][0] < marks[2][0] < marks[1][0]  # in the order of the axis: 4, 1, 2.5
    assert list(make_plots(table, chosen, PlotConfig(x="guidance", y=("frechet distance",))).svgs) == [
        "frechet distance over attributes accuracy",
        "frechet distance over guidance",
    ]
    twice = [PlotConfig(x="guidance"), PlotConfig(x="guidance", log=True)]
    assert list(make_plots(table, *twice).svgs)[::2] == [
        "frechet distance over guidance",
        "frechet distance over guidance (2)",
    ]
    below = [result(2.0), result(-1.0, metric="attributes", name="accuracy")]
    plots = make_plots(
        make_table(axes, trials(axes, {("4", "plain"): below})),
        PlotConfig(x="attributes accuracy", y=("frechet distance",), log=True),
    )
    assert plots.notes == [
        "The axis of attributes accuracy is not logarithmic, because some of its values are 0 or less."
    ]
    plots = make_plots(table, PlotConfig(y=("frechet distanc", "attributes accuracy")))
    assert list(plots.svgs) == ["attributes accuracy"]
    assert plots.notes == [
        "There is no number 'frechet distanc' to plot; there are: attributes accuracy, frechet distance."
    ]


def test_an_axis_of_names_has_them_below_the_plot() -> None:
    axes = [METHODS]
    found = {("plain",): [result(1.0)], ("$x$ <b>",): [result(float("nan"))]}
    plots = make_plots(make_table(axes, trials(axes, found)), PlotConfig(log=True))
    svg = plots.svgs["frechet distance"]
    assert {"plain", "$x$ <b>", "method"} <= set(texts(svg)) and len(points(svg)) == 1


def test_there_may_be_nothing_to_plot() -> None:
    axes = [SCALES]
    assert make_plots(make_table(axes, trials(axes, {("4",): None})), PlotConfig()).svgs == {}
    table = make_table(axes, trials(axes, {("4",): [result(math.inf)]}))
    assert make_plots(table, PlotConfig()).notes == ["frechet distance has no finite numbers to plot."]
    table = make_table([SEEDS], trials([SEEDS], {("0",): [result(1.0)], ("1",): [result(math.nan)]}))
    assert make_plots(table, PlotConfig()).notes == ["There is no axis to plot over."]
    assert table.to_read()[1] == [["nan"]]
