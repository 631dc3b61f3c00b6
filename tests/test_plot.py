"""Line plots: where things lie, that text is text, and that nothing else has a say in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.path import Path as Curve
from matplotlib.text import Annotation, Text

from kgen.reporting.labels import Label, draw_labels
from kgen.reporting.plot import Line, line_plot

SVG = "{http://www.w3.org/2000/svg}"


class Plot:
    """The content of an SVG file by matplotlib."""

    def __init__(self, *lines: Line, logarithmic: bool = False) -> None:
        self.svg = line_plot(lines, "seconds", "share", logarithmic=logarithmic)
        self.root = ElementTree.fromstring(self.svg)
        self.axes = self.root.find(f".//{SVG}g[@id='axes_1']")
        assert self.axes is not None
        groups = [group for group in self.axes if group.attrib.get("id", "").startswith("line2d")]
        self.marks = [_uses(group) for group in groups]
        self.paths = [path.attrib["d"] for group in groups for path in group.findall(f"{SVG}path")]
        self.texts = [text.strip() for text in self.root.itertext() if text.strip()]

    def ticks(self, axis: int) -> dict[str, float]:
        """The numbers of an axis (1: x, 2: y), and where they stand."""
        found = {}
        for group in self.axes.find(f"{SVG}g[@id='matplotlib.axis_{axis}']"):  # type: ignore[union-attr]
            text, place = list(group.itertext()), _uses(group)
            if place:
                found["".join(text).strip()] = place[0][axis - 1]
        return found


def _uses(group: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in group.iter(f"{SVG}use")]


def test_a_logarithmic_axis_has_equal_factors_equally_far_apart() -> None:
    points = [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0)]
    (((a, low), (b, middle), (c, high)),) = Plot(Line("a", points, "123"), logarithmic=True).marks
    assert b - a == pytest.approx(c - b) and b - a > 100
    assert low - middle == pytest.approx(middle - high) and low - middle > 50  # up is more
    (((a, _), (b, _), (c, _)),) = Plot(Line("a", points, "123")).marks
    assert b - a == pytest.approx((c - b) / 10)


def test_points_with_labels_have_marks_and_one_alone_has_no_line() -> None:
    plot = Plot(Line("many", [(1.0, 0.2), (2.0, 0.4)], ["p", "q"]), Line("one", [(5.0, 0.9)]), Line("bare", []))
    assert [len(marks) for marks in plot.marks] == [2, 1, 0]
    assert {"many", "one", "bare", "p", "q", "seconds", "share", "share over seconds"} <= set(plot.texts)
    plot = Plot(Line("plain", [(1.0, 0.2), (2.0, 0.4), (3.0, 0.1)]))
    assert plot.marks == [[]] and plot.paths[0].split().count("L") == 2


def test_marks_are_at_the_coordinates_of_the_axes() -> None:
    plot = Plot(Line("a", [(1.0, 0.0), (10.0, 1.0)], ["p", "q"]), logarithmic=True)
    (((left, bottom), (right, top)),) = plot.marks
    x, y = plot.ticks(1), plot.ticks(2)
    assert (x["1"], x["10"], y["0.0"], y["1.0"]) == pytest.approx((left, right, bottom, top), abs=1e-3)
    assert left < x["2"] < x["5"] < right


@pytest.mark.parametrize("low, high", [(0.30, 0.31), (1e-4, 5e2), (2.1, 4.9), (3.0, 3.0)])
def test_a_logarithmic_axis_names_some_numbers_and_not_too_many(low: float, high: float) -> None:
    ticks = Plot(Line("a", [(low, 0.0), (high, 1.0)], "pq"), logarithmic=True).ticks(1)
    assert 2 <= len(ticks) <= 14
    places = sorted(ticks.values())
    assert min(b - a for a, b in pairwise(places)) > 30


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-9, 1e9])
def test_the_plot_is_within_its_frame_and_the_legend_above(value: float) -> None:
    names = ["short", "a long name " * 20, *(f"name {i}" for i in range(10))]
    plot = Plot(*(Line(name, [(1.0, value), (3e3, value)], "12") for name in names), logarithmic=True)
    left, top, width, height = map(float, plot.root.attrib["viewBox"].split())
    marks = [mark for line in plot.marks for mark in line]
    assert len(marks) == 24 and all(left < x < width and top < y < height for x, y in marks)
    legend = plot.root.find(f".//{SVG}g[@id='legend_1']")
    assert legend is not None
    heights = [float(re.findall(r"[\d.]+", text.attrib["transform"])[-1]) for text in legend.iter(f"{SVG}text")]
    assert len(heights) >= 14 and min(heights) > 0 and max(heights) < min(y for _, y in marks)


def test_names_are_texts() -> None:
    for name in ("<b> & 'c' \"d\"", "$x^2$ \\alpha", "_hidden", "\N{GRINNING FACE} \N{CJK UNIFIED IDEOGRAPH-753B}"):
        assert name in Plot(Line(name, [(1.0, 1.0)])).texts
    assert r"\x1b[31m\x00" in Plot(Line("\x1b[31m\x00", [(1.0, 1.0)])).texts  # no such letter is allowed in XML
    with pytest.raises(ValueError, match="nothing"):
        line_plot([Line("a", [])], "x", "y")


def test_the_same_plot_has_the_same_bytes_whatever_the_users_settings_are() -> None:
    lines = [Line("a", [(1.0, 0.25), (2.0, 0.5)])]
    before = line_plot(lines, "x", "y")
    with matplotlib.rc_context({"axes.facecolor": "black", "svg.fonttype": "path", "font.size": 30.0}):
        assert line_plot(lines, "x", "y") == before
        assert matplotlib.rcParams["font.size"] == 30.0
    assert "date" not in before


ALONE = """
import sys
from kgen.reporting.plot import Line, line_plot
assert "matplotlib" not in sys.modules, "too early"
print(line_plot([Line("a", [(1.0, 0.25), (2.0, 0.5)])], "x", "\N{GRINNING FACE}"))
assert "matplotlib.pyplot" not in sys.modules, "of no use"
"""


def test_the_first_plot_of_a_process_says_nothing_and_is_like_the_others(tmp_path: Path) -> None:
    """This holds even if matplotlib cannot write its cache of fonts."""
    (tmp_path / "file").touch()
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "none"), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == line_plot([Line("a", [(1.0, 0.25), (2.0, 0.5)])], "x", "\N{GRINNING FACE}").strip()


def _bars(plot: Plot) -> list[list[tuple[float, float]]]:
    """The ends of each error bar."""
    groups = [group for group in plot.axes if group.attrib.get("id", "").startswith("LineCollection")]  # type: ignore[union-attr]
    paths = [path.attrib["d"] for group in groups for path in group.iter(f"{SVG}path") if "d" in path.attrib]
    numbers = [list(map(float, re.findall(r"-?[\d.]+", path))) for path in paths]
    return [list(zip(ends[::2], ends[1::2], strict=True)) for ends in numbers]


def test_error_bars_reach_from_the_mean_by_the_error_to_both_sides() -> None:
    points, errors = [(1.0, 0.0), (2.0, 4.0), (3.0, 8.0)], [(0.0, 1.0), (0.0, 0.0), (0.5, 2.0)]
    plot = Plot(Line("a", points, errors=errors))
    (a_x, a_y), (b_x, _), (c_x, c_y) = plot.marks[0]
    unit = (a_y - c_y) / 8
    horizontal, *vertical = _bars(plot)
    assert sorted(horizontal) == [
        pytest.approx((c_x - (b_x - a_x) / 2, c_y)),
        pytest.approx((c_x + (b_x - a_x) / 2, c_y)),
    ]
    (first, third) = vertical
    assert sorted(first) == [pytest.approx((a_x, a_y - unit)), pytest.approx((a_x, a_y + unit))]
    assert sorted(third) == [pytest.approx((c_x, c_y - 2 * unit)), pytest.approx((c_x, c_y + 2 * unit))]
    assert len(Plot(Line("a", points, errors=[(0.0, 0.0)] * 3)).marks[0]) == 3
    assert not _bars(Plot(Line("a", points, errors=[(0.0, 0.0)] * 3)))


@pytest.mark.parametrize("errors", [[(0.0, 0.0), (0.0, 1.0)], [(0.5, 1.0), (0.5, 0.0)]])
def test_points_with_labels_may_have_error_bars_of_length_zero(errors: list[tuple[float, float]]) -> None:
    plot = Plot(Line("a", [(1.0, 2.0), (2.0, 4.0)], ["first", "second"], errors))
    assert {"first", "second"} <= set(plot.texts)
    assert len(_bars(plot)) == sum(length > 0 for error in errors for length in error)


def test_categories_stand_below_their_places() -> None:
    svg = line_plot([Line("a", [(0.0, 1.0), (2.0, 3.0)], "pq")], "x", "y", categories=["one", "$two$", "three"])
    plot = Plot.__new__(Plot)
    plot.root = ElementTree.fromstring(svg)
    plot.axes = plot.root.find(f".//{SVG}g[@id='axes_1']")
    ticks = plot.ticks(1)
    assert list(ticks) == ["one", "$two$", "three"]
    assert ticks["$two$"] - ticks["one"] == pytest.approx(ticks["three"] - ticks["$two$"])


class Labeled:
    """The labels of points, on axes from 0 to 1 with a curve through the points and error bars."""

    def __init__(self, *points: tuple[float, float, str]) -> None:
        x, y, _ = zip(*points, strict=True)
        self.axes = Figure((6, 4)).add_subplot(xlim=(0, 1), ylim=(0, 1))
        self.axes.plot(x, y, marker="o")
        self.axes.errorbar(x, y, yerr=0.02, fmt="none")
        self._draw()
        draw_labels(self.axes, [Label((x, y), text, "black") for x, y, text in points])
        self._draw()
        texts = [text for text in self.axes.texts if isinstance(text, Annotation)]
        self.names = [text.get_text() for text in texts]
        self.boxes = [Text.get_window_extent(text) for text in texts]  # without the joining line
        self.points = [self.axes.transData.transform(text.xy) for text in texts]
        centers = [box.get_points().mean(0) for box in self.boxes]
        self.lines = [Curve(ends) for ends in zip(self.points, centers, strict=True)]
        self.joined = [text.arrow_patch is not None for text in texts]

    def _draw(self) -> None:
        self.axes.figure.draw_without_rendering()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "points",
    [
        [(0.8, 0.5), (0.802, 0.504), (0.802, 0.496), (0.804, 0.502), (0.798, 0.498)],
        [(0.806, 0.802), (0.804, 0.792), (0.803, 0.81), (0.798, 0.792), (0.809, 0.804)],
    ],
)
def test_labels_can_be_read_where_points_lie_close_together(points: list[tuple[float, float]]) -> None:
    labeled = Labeled(*((x, y, f"{2**number}.5") for number, (x, y) in enumerate(points)))
    assert labeled.names == ["1.5", "2.5", "4.5", "8.5", "16.5"]
    assert any(labeled.joined)
    for i, box in enumerate(labeled.boxes):
        assert box.x1 <= labeled.axes.bbox.x1
        assert not any(box.contains(*point) for point in labeled.points)
        for j in range(i):
            assert not box.overlaps(labeled.boxes[j])
            assert not (labeled.joined[i] and labeled.joined[j] and labeled.lines[i].intersects_path(labeled.lines[j]))
            assert not (labeled.joined[i] and labeled.lines[i].intersects_bbox(labeled.boxes[j]))
            assert not (labeled.joined[j] and labeled.lines[j].intersects_bbox(box))


def test_a_label_is_above_its_point_if_nothing_is_in_the_way() -> None:
    labeled = Labeled((0.2, 0.3, "left"), (0.5, 0.3, "middle"), (0.8, 0.3, "right"))
    for box, (x, y), joined in zip(labeled.boxes, labeled.points, labeled.joined, strict=True):
        assert (box.x0 + box.x1) / 2 == pytest.approx(x, abs=1)
        assert y < box.y0 < y + 12 and not joined


def test_labels_at_one_point_are_drawn_apart_and_equal_ones_once() -> None:
    labeled = Labeled((0.5, 0.5, "1"), (0.5, 0.5, "1"), (0.5, 0.5, "2"), (0.7, 0.5, "1"))
    assert labeled.names == ["1", "2", "1"]
    assert not labeled.boxes[0].overlaps(labeled.boxes[1])
