"""The plots of a sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgen.evaluation.columns import Column
from kgen.reporting.plot import Line, Point, line_plot
from kgen.studies.axes import Axis, find_axis, short_names
from kgen.studies.plot_names import horizontal_axis
from kgen.studies.study_file import PlotConfig
from kgen.sweeps.table import Cell, Row, Table

SINGLE = "sweep.svg"


@dataclass(frozen=True)
class Plots:
    """The plots of a sweep.

    Args:
        svgs: SVG files by title. The title is that of the column, and names the horizontal axis if the study has
            several plots.
        notes: Sentences about numbers that cannot be plotted.
    """

    svgs: Mapping[str, str]
    notes: Sequence[str]


def make_plots(table: Table, *plots: PlotConfig) -> Plots:
    """Plots each main number, or the numbers that the study chooses, over an axis or over another number."""
    if not table.columns:
        return Plots({}, ["There are no numbers yet."])
    made = [_make_plots(table, plot, named=len(plots) > 1) for plot in plots]
    notes = dict.fromkeys(note for each in made for note in each.notes)
    svgs: dict[str, str] = {}
    for title, svg in (item for each in made for item in each.svgs.items()):
        # Plots that differ only in their lines have the same title.
        others = [f"{title} ({number})" for number in range(2, len(plots) + 1)]
        svgs[next(free for free in (title, *others) if free not in svgs)] = svg
    return Plots(svgs, list(notes))


def _make_plots(table: Table, plot: PlotConfig, named: bool) -> Plots:
    """Makes the plots with one horizontal axis. `named`: whether the titles name that axis."""
    labels = {column.label for column in table.columns}
    wanted = plot.y or tuple(dict.fromkeys(column.label for column in table.headlines))
    notes = [_unknown(label, labels) for label in wanted if label not in labels]
    over: Axis | Column | None = horizontal_axis(table.axes, plot)
    if over is None:
        over = next((column for column in table.columns if column.label == plot.x), None)
        if over is None:
            return Plots({}, [*notes, _unknown(str(plot.x), labels) if plot.x else "There is no axis to plot over."])
    svgs = {}
    suffix = f" over {_title(table, over)}" if named else ""
    for column in table.columns:
        if column.label in wanted and column is not over:
            made = _Plot(table, plot, over, column)
            if svg := made.svg():
                svgs[column.title + suffix] = svg
            notes += made.notes
    return Plots(svgs, notes)


def file_names(plots: Plots) -> dict[str, str]:
    """The name of each plot's file, by its title; `SINGLE` if there is only one plot."""
    if len(plots.svgs) == 1:
        return dict.fromkeys(plots.svgs, SINGLE)
    names: dict[str, str] = {}
    for title in plots.svgs:
        stem = f"sweep-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')[:80]}"
        free = [f"{stem}.svg", *(f"{stem}-{number}.svg" for number in range(2, len(plots.svgs) + 1))]
        names[title] = next(name for name in free if name not in names.values())
    return names


def _title(table: Table, over: Axis | Column) -> str:
    return over.title if isinstance(over, Column) else short_names(table.axes)[over.name]


def _unknown(label: str, labels: set[str]) -> str:
    return f"There is no number '{label}' to plot; there are: {', '.join(sorted(labels))}."


class _Plot:
    """One plot.

    Args:
        table: The table.
        plot: The settings of the plot in the study.
        over: The axis, or the number, on the horizontal axis.
        column: The number on the vertical axis.

    Attributes:
        notes: Sentences about what cannot be plotted, after `svg`.
    """

    def __init__(self, table: Table, plot: PlotConfig, over: Axis | Column, column: Column) -> None:
        self.table, self.plot, self.over, self.column = table, plot, over, column
        self.names = short_names(table.axes)
        self.notes: list[str] = []
        self.categories = [v.label for v in over.values] if isinstance(over, Axis) and not over.numeric else []
        label = find_axis(table.axes, plot.label) if plot.label else None
        if label is None and isinstance(over, Column) and table.axes:
            label = table.axes[-1]
        self.label = label
        if plot.line is None:
            self.shared = [axis for axis in table.axes if axis not in (over, label)]
        else:
            self.shared = [axis for name in plot.line if (axis := find_axis(table.axes, name)) is not None]

    def svg(self) -> str:
        """The plot as SVG; "" if there is no finite number."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.table.rows:
            groups.setdefault(tuple(row.values[axis.name].label for axis in self.shared), []).append(row)
        lines = [self._line(labels, rows) for labels, rows in groups.items()]
        lines = [line for line in lines if line.points]
        if not lines:
            self.notes.append(f"{self.column.title} has no finite numbers to plot.")
            return ""
        logarithmic = self.plot.log and not self.categories
        if logarithmic and any(x <= 0 for line in lines for x, _ in line.points):
            logarithmic, over = False, _title(self.table, self.over)
            self.notes.append(f"The axis of {over} is not logarithmic, because some of its values are 0 or less.")
        return line_plot(
            lines,
            _title(self.table, self.over) + (f" (texts: {self.names[self.label.name]})" if self.label else ""),
            self.column.title,
            logarithmic=logarithmic,
            categories=self.categories,
        )

    def _line(self, labels: Sequence[str], rows: Sequence[Row]) -> Line:
        found = [(x, cell, row) for row in rows if (x := self._x(row)) and (cell := row.cells.get(self.column.title))]
        found = [(x, cell, row) for x, cell, row in found if math.isfinite(x.mean) and math.isfinite(cell.mean)]
        if isinstance(self.over, Axis):
            found.sort(key=lambda point: point[0].mean)
        points: list[Point] = [(x.mean, cell.mean) for x, cell, _ in found]
        errors: list[Point] = [(_length(x), _length(cell)) for x, cell, _ in found]
        texts = [row.values[self.label.name].label for *_, row in found] if self.label else []
        name = ", ".join(
            label if axis.named else f"{self.names[axis.name]} {label}"
            for axis, label in zip(self.shared, labels, strict=True)
        )
        return Line(name or self.column.title, points, texts, errors)

    def _x(self, row: Row) -> Cell | None:
        """The position of a row on the horizontal axis; None if the row lacks that number."""
        if isinstance(self.over, Column):
            return row.cells.get(self.over.title)
        value = row.values[self.over.name]
        if value.number is not None and self.over.numeric:
            return Cell(float(value.number), None, 1)
        return Cell(float(self.categories.index(value.label)), None, 1)


def _length(cell: Cell) -> float:
    """Half the length of an error bar."""
    return cell.error if cell.error is not None and math.isfinite(cell.error) else 0.0
