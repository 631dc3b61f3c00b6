"""The table of a sweep: numbers with the same protocol share a column, and repeated trainings share a row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgen.evaluation.columns import Column, make_columns
from kgen.evaluation.results import Better, Result
from kgen.reporting.digits import with_error
from kgen.studies.axes import Axis, Value, short_names
from kgen.studies.study_file import COLUMNS

ARROWS: Mapping[Better | None, str] = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}", None: ""}

Values = Mapping[str, Value]
"""The value of a trial on each axis, by the name of the axis."""


@dataclass(frozen=True)
class Cell:
    """A number of a row.

    Args:
        mean: The mean.
        error: The standard error of the mean; None: there is only one number.
        count: Number of trainings.
    """

    mean: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """Trials that differ only in the seed of the training.

    Args:
        values: The value on each of the other axes, by the name of the axis.
        trials: Number of trials.
        finished: Number of trials with results.
        cells: The numbers by the title of the column.
    """

    values: Values
    trials: int
    finished: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """The numbers of a sweep.

    Args:
        axes: The axes, without the axis of the training's seeds.
        columns: The numbers.
        rows: The trials, in the order of the axes.
        notes: Sentences that a reader must know.
    """

    axes: Sequence[Axis]
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str]

    @property
    def headlines(self) -> list[Column]:
        """The main numbers; all numbers if no metric has one."""
        return [column for column in self.columns if column.headline] or list(self.columns)

    def to_read(self) -> tuple[list[str], list[list[str]]]:
        """The head and the rows of the table for readers, with the main numbers and their standard errors."""
        names = short_names(self.axes)
        head = [*(names[axis.name] for axis in self.axes), *(c.title + ARROWS[c.better] for c in self.headlines)]
        rows = []
        for row in self.rows:
            missing = "" if row.finished == row.trials else f" ({row.finished} of {row.trials} seeds)"
            cells = (row.cells.get(column.title) for column in self.headlines)
            texts = [f"{shown(cell)}{missing}" if cell else "\N{EM DASH}" for cell in cells]
            rows.append([*(row.values[axis.name].label for axis in self.axes), *texts])
        return head, rows


def shown(cell: Cell) -> str:
    """A number with its standard error: "0.964 ± 0.012"."""
    return with_error(cell.mean, cell.error if cell.error is not None and math.isfinite(cell.error) else None)


def make_table(axes: Sequence[Axis], trials: Sequence[tuple[Values, Sequence[Result] | None]]) -> Table:
    """Arranges the results of trials.

    Args:
        axes: The axes.
        trials: The values of each trial, and its results; None: it has no results.
    """
    shared = [axis for axis in axes if not axis.repeats]
    columns = make_columns([results for _, results in trials if results is not None])
    groups: dict[tuple[str, ...], list[tuple[Values, Sequence[Result] | None]]] = {}
    for values, results in trials:
        groups.setdefault(tuple(values[axis.name].label for axis in shared), []).append((values, results))
    rows = []
    for members in groups.values():
        found: dict[str, list[Result]] = {}
        for result in (result for _, results in members for result in results or ()):
            found.setdefault(columns.of(result).title, []).append(result)
        finished = sum(results is not None for _, results in members)
        cells = {title: aggregate(results) for title, results in found.items()}
        rows.append(Row({axis.name: members[0][0][axis.name] for axis in shared}, len(members), finished, cells))
    return Table(shared, columns.all, rows, columns.notes)


def aggregate(results: Sequence[Result]) -> Cell:
    """The mean over trainings; if there is only one training, the mean over the seeds of its evaluation."""
    means = [result.mean for result in results]
    if len(means) == 1:
        return Cell(means[0], results[0].standard_error, 1)
    finite = all(map(math.isfinite, means))
    error = statistics.stdev(means) / math.sqrt(len(means)) if finite else math.nan
    return Cell(statistics.fmean(means), error, len(means))


def to_compute(
    axes: Sequence[Axis], trials: Sequence[tuple[str, Values, Sequence[Result] | None]]
) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table for programs: one row per trial, number and seed of the evaluation.

    Numbers have all digits.

    Args:
        axes: The axes.
        trials: The name, the values and the results of each trial.
    """
    rows = [
        [
            name,
            *(values[axis.name].label for axis in axes),
            *(result.metric, result.split, result.name, str(seed), repr(float(number)), result.fingerprint),
        ]
        for name, values, results in trials
        for result in results or ()
        for seed, number in result.values.items()
    ]
    first, *others = COLUMNS
    return [first, *(axis.name for axis in axes), *others], rows
