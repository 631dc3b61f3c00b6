"""Line plots as SVG, with nothing to be loaded and nothing to be styled: for pages, and as files of their own."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, BOTTOM = 64, 20, 46
ROW = 18
"""Height of a line of the legend."""

LETTER = 6.5
"""About how wide a letter is."""

COLOURS = ("#1f6feb", "#d1660f", "#1a7f37", "#8250df", "#cf222e", "#0e7c86", "#9a6700", "#bf3989")
"""Of lines, in turn: dark enough to be read on white."""

TEXT, FAINT = "#424a53", "#d1d9e0"

MOST_TICKS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """What one line shows.

    Args:
        name: For the legend.
        points: (x, y), in order; a single one is drawn as a larger mark.
        labels: A text for each point, which then has a mark too; none: a plain line.
    """

    name: str
    points: Sequence[Point]
    labels: Sequence[str] = ()


def line_plot(lines: Sequence[Line], x_label: str, y_label: str, *, logarithmic: bool = False) -> str:
    """Draws lines over two axes, with a legend above: an `<svg>` element, which is a whole file too.

    Args:
        lines: Some points in all; their numbers are finite.
        x_label, y_label: What the axes show, with the unit.
        logarithmic: Whether the x axis is; all x are then above 0.

    Raises:
        ValueError: there is no point.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("there is nothing to be plotted")
    places, rows = _legend_places([line.name for line in lines])
    top = 14 + ROW * rows
    x = _Axis.over([point[0] for point in points], LEFT, WIDTH - RIGHT, logarithmic)
    y = _Axis.over([point[1] for point in points], HEIGHT - BOTTOM, top + 12)
    drawn = [_line(line, COLOURS[i % len(COLOURS)], x, y) for i, line in enumerate(lines)]
    legend = [
        f'<rect x="{left}" y="{6 + ROW * row}" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>'
        + _text(left + 15, 15 + ROW * row, line.name)
        for i, (line, (left, row)) in enumerate(zip(lines, places, strict=True))
    ]
    label = html.escape(f"{y_label} over {x_label}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'aria-label="{label}" font-family="system-ui, sans-serif" font-size="11" fill="{TEXT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        + _frame(x, y, top, x_label, y_label)
        + "".join(legend)
        + "".join(drawn)
        + "</svg>"
    )


@dataclass(frozen=True)
class _Axis:
    """Where numbers from `low` to `high` lie, between the pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> _Axis:
        """With some room around the numbers, also where all are the same."""
        low, high = min(values), max(values)
        if logarithmic:
            return cls(low / 1.25, high * 1.25, start, end, True)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        share = ((math.log(value) if self.logarithmic else value) - low) / (high - low)
        return self.start + (self.end - self.start) * share

    def ticks(self) -> list[float]:
        """Round numbers: 1, 2 and 5 times powers of ten, on a logarithmic axis; multiples of such a number else."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            fine = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            inside = [tick for tick in fine if self.low <= tick <= self.high]
            coarse = [tick for tick in inside if math.log10(tick).is_integer()]
            if len(inside) >= 2:
                return coarse if len(inside) > MOST_TICKS else inside
        unit = 10.0 ** math.floor(math.log10((self.high - self.low) / MOST_TICKS))
        step = next(unit * digit for digit in (1, 2, 5, 10) if (self.high - self.low) / (unit * digit) <= MOST_TICKS)
        return [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _frame(x: _Axis, y: _Axis, top: int, x_label: str, y_label: str) -> str:
    """Grid, numbers and what the axes are."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT},{top} V{bottom} H{right}" fill="none" stroke="{TEXT}"/>']
    for tick in x.ticks():
        place = f"{x.at(tick):.1f}"
        parts.append(f'<path d="M{place},{top} V{bottom}" stroke="{FAINT}"/>')
        parts.append(_text(place, bottom + 16, f"{tick:.4g}", "middle"))
    for tick in y.ticks():
        place = f"{y.at(tick):.1f}"
        parts.append(f'<path d="M{LEFT},{place} H{right}" stroke="{FAINT}"/>')
        parts.append(_text(LEFT - 6, f"{y.at(tick) + 4:.1f}", f"{tick:.4g}", "end"))
    parts.append(_text((LEFT + right) // 2, HEIGHT - 10, x_label, "middle"))
    middle = (top + bottom) // 2
    parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle + 4, y_label, "middle")}</g>')
    return "".join(parts)


def _line(line: Line, colour: str, x: _Axis, y: _Axis) -> str:
    places = [(x.at(first), y.at(second)) for first, second in line.points]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    alone = len(places) == 1
    parts = [] if len(places) < 2 else [f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>']
    if alone or line.labels:
        parts += [
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{6 if alone else 3.5}" fill="{colour}"/>'
            for left, top in places
        ]
    for (left, top), label in zip(places, line.labels, strict=False):
        parts.append(_text(f"{left:.1f}", f"{top - 8:.1f}", label, "middle", colour))
    return "".join(parts)


def _legend_places(names: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Where each name goes, (x, row), as in a text; and how many rows there are."""
    places, left, row = [], LEFT, 0
    for name in names:
        width = 32 + math.ceil(LETTER * len(name))
        if left > LEFT and left + width > WIDTH - RIGHT:
            left, row = LEFT, row + 1
        places.append((left, row))
        left += width
    return places, row + 1


def _text(x: int | str, y: int | str, text: str, anchor: str = "start", colour: str = TEXT) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'
