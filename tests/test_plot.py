"""Line plots: where things lie, and that they need nothing beside themselves."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from kgen.reporting.plot import HEIGHT, WIDTH, Line, line_plot

SVG = "{http://www.w3.org/2000/svg}"


def parsed(*lines: Line, logarithmic: bool = False) -> ElementTree.Element:
    return ElementTree.fromstring(line_plot(lines, "seconds", "share", logarithmic=logarithmic))


def places(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Of each line its points, in pixels."""
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]
        for line in root.iter(f"{SVG}polyline")
    ]


def texts(root: ElementTree.Element) -> list[str | None]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_a_logarithmic_axis_has_equal_factors_equally_far_apart() -> None:
    (points,) = places(parsed(Line("a", [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0)]), logarithmic=True))
    (a, b, c), (low, middle, high) = zip(*points, strict=True)
    assert b - a == pytest.approx(c - b, abs=0.11) and b - a > 100
    assert low - middle == pytest.approx(middle - high, abs=0.11) and low - middle > 50  # up is more
    (points,) = places(parsed(Line("a", [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0)])))
    assert points[1][0] - points[0][0] < 0.11 * (points[2][0] - points[1][0])


def test_points_with_labels_have_marks_and_one_alone_has_no_line() -> None:
    root = parsed(Line("many", [(1.0, 0.2), (2.0, 0.4)], ["1", "32"]), Line("one", [(5.0, 0.9)]), Line("bare", []))
    assert len(places(root)) == 1
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    assert {"many", "one", "1", "32", "seconds", "share"} <= set(texts(root))


def test_marks_lie_where_the_numbers_of_the_axis_say() -> None:
    root = parsed(Line("a", [(1.0, 0.0), (10.0, 1.0)], ["p", "q"]), logarithmic=True)
    ticks = {e.text: float(e.attrib["x"]) for e in root.iter(f"{SVG}text") if e.attrib["text-anchor"] == "middle"}
    first, second = (float(circle.attrib["cx"]) for circle in root.iter(f"{SVG}circle"))
    assert (ticks["1"], ticks["10"]) == (first, second) and first < ticks["2"] < ticks["5"] < second


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-9, 1e9])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_everything_lies_within(value: float, logarithmic: bool) -> None:
    lines = [Line(f"a run with a long name {i}", [(0.5 + i, value), (3e3, value)], ["1", "2"]) for i in range(12)]
    root = parsed(*lines, logarithmic=logarithmic)
    for x, y in [point for line in places(root) for point in line]:
        assert 0 < x < WIDTH and 0 < y < HEIGHT
    assert all(
        0 <= float(e.attrib["x"]) <= WIDTH and 0 <= float(e.attrib["y"]) <= HEIGHT for e in root.iter(f"{SVG}text")
    )
    assert len(texts(root)) >= 12 + 24 + 2 + 2


def test_names_are_texts() -> None:
    assert "<b> & 'c'" in texts(parsed(Line("<b> & 'c'", [(1.0, 1.0)])))
    with pytest.raises(ValueError, match="nothing"):
        line_plot([Line("a", [])], "x", "y")
