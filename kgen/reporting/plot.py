"""Line plots as SVG, for pages and for separate files."""

from __future__ import annotations

import io
import itertools
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kgen.reporting.labels import Label, draw_labels
from kgen.reporting.plain import printable

SIZE = (10.0, 4.7)
"""Width and height in inches; an inch is 72 SVG units."""

COLORS = ("#1f6feb", "#d1660f", "#1a7f37", "#8250df", "#cf222e", "#0e7c86", "#9a6700", "#bf3989")
"""Colors of the lines, in turn. All are dark enough to be read on white."""

LEGEND_WIDTH = 110
"""Width of a row of the legend, in characters."""

MAX_TICK = 30
"""Largest number of characters of a text below the axis."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kgen",  # the same plot has the same bytes
    "text.parse_math": False,  # a name may hold $
    "axes.edgecolor": "#424a53",
    "axes.labelcolor": "#424a53",
    "xtick.color": "#424a53",
    "ytick.color": "#424a53",
    "text.color": "#424a53",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#d1d9e0",
}

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Args:
        name: The name in the legend.
        points: (x, y), in order. A single point becomes a larger marker.
        labels: A text for each point, which then also gets a marker; empty: a plain line.
        errors: The half lengths of the error bars of each point, in x and in y, which then also gets a marker; a bar of
            length 0 is not drawn; empty: no error bars.
    """

    name: str
    points: Sequence[Point]
    labels: Sequence[str] = ()
    errors: Sequence[Point] = ()


def line_plot(
    lines: Sequence[Line], x_label: str, y_label: str, *, logarithmic: bool = False, categories: Sequence[str] = ()
) -> str:
    """Plots lines over two axes, with a legend above. Returns an SVG file, in which text remains text.

    Args:
        lines: The lines, with at least one point in total. All numbers are finite.
        x_label, y_label: The labels of the axes, with units.
        logarithmic: Whether the x axis is logarithmic; all x must then be positive.
        categories: The texts below the x axis at 0, 1, 2, ...; empty: the axis shows numbers.

    Raises:
        ValueError: there are no points.
    """
    if not any(line.points for line in lines):
        raise ValueError("there is nothing to be plotted")
    names = [textwrap.fill(printable(line.name), LEGEND_WIDTH) for line in lines]
    with _matplotlib():
        from matplotlib.figure import Figure
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=printable(x_label), ylabel=printable(y_label))
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=_digits(lines)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FormatStrFormatter("%.4g"))
        axes.margins(0.06, 0.1)
        curves, labels = [], []
        for line, color in zip(lines, itertools.cycle(COLORS), strict=False):
            curves += _draw(axes, line, color)
            labels += [Label(*at, color) for at in zip(line.points, map(printable, line.labels), strict=False)]
        if categories:
            axes.set_xticks(range(len(categories)), [printable(category)[:MAX_TICK] for category in categories])
        columns = max(1, LEGEND_WIDTH // (max(map(len, names)) + 6))
        figure.legend(curves, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
        if labels:
            figure.draw_without_rendering()  # so that the layout is final
            draw_labels(axes, labels)
        file = io.StringIO()
        about = {"Title": f"{printable(y_label)} over {printable(x_label)}", "Date": None, "Creator": None}
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=about)
    return file.getvalue()


def _draw(axes: Any, line: Line, color: str) -> list[Any]:
    """Draws a line and its error bars. Returns the curve, for the legend."""
    xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
    alone = len(xs) == 1
    marker = "o" if alone or line.labels or line.errors else ""
    curves: list[Any] = axes.plot(xs, ys, color=color, marker=marker, markersize=10 if alone else 6)
    for name, halves in zip(("xerr", "yerr"), zip(*line.errors, strict=True), strict=False):
        if any(halves):
            drawn = {name: [half or math.nan for half in halves]}
            axes.errorbar(xs, ys, **drawn, ecolor=color, fmt="none", capsize=3, elinewidth=1.2)
    return curves


def _digits(lines: Sequence[Line]) -> tuple[float, ...]:
    """The multiples of powers of ten at which a logarithmic axis has ticks: fewer if it spans many powers."""
    xs = [x for line in lines for x, _ in line.points]
    return (1, 2, 5) if max(xs) / min(xs) < 10_000 else (1,)


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Imports matplotlib, with its defaults and `STYLE` in place of the user's settings, for the block.

    It suppresses warnings about missing fonts, and about characters that are missing in matplotlib's font, because
    browsers have other fonts.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            yield
    finally:
        logger.setLevel(level)
