"""Places the labels of a plot's points, so that they can be read where points lie close together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FONT_SIZE = 9
"""In points, of which an inch has 72, as all lengths here."""

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Directions from a point to its label. The first is taken if nothing is in the way."""

DISTANCES = (5.0, 16.0, 28.0, 44.0)
"""Distances from a point to its label. A thin line joins both if the distance is not the smallest."""

COVERS_LABEL, COVERS_MARKER, COVERS_LINE = 100.0, 20.0, 4.0
"""The costs of a place for each label, marker or line that a label there would cover."""

CROSSES, OUTSIDE, FARTHER = 50.0, 100.0, 2.0
"""The costs of a place for each crossing of a joining line, outside the axes, and for each larger distance."""

ROUNDS = 3
"""How often all labels are placed. From the second round on, each finds all others in their places."""


@dataclass(frozen=True)
class Label:
    """The label of a point.

    Args:
        point: (x, y), in the coordinates of the data.
        text: The text.
        color: The color of the text.
    """

    point: tuple[float, float]
    text: str
    color: str


def draw_labels(axes: Any, labels: Sequence[Label]) -> None:
    """Draws each label near its point, at the place of the smallest cost.

    Labels of the same text at the same point are drawn once. The layout of the figure must be final.

    Args:
        axes: matplotlib's axes, with all curves, markers and error bars.
        labels: The labels, in the order in which they are placed.
    """
    different = {(label.point, label.text): label for label in labels}.values()
    for label, place in _Scene(axes).places(different).items():
        line = {"arrowstyle": "-", "color": label.color, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label.text,
            label.point,
            tuple((place.center - place.point).tolist()),
            textcoords="offset points",
            ha="center",
            va="center",
            color=label.color,
            fontsize=FONT_SIZE,
            arrowprops=line if place.step else None,
        ).set_in_layout(False)


@dataclass(frozen=True)
class _Place:
    """A place of a label, in points from the corner of the figure.

    Args:
        point: (x, y) of the point.
        center: (x, y) of the center of the label.
        half: Half the width and height of the label.
        step: The index of the distance.
    """

    point: np.ndarray
    center: np.ndarray
    half: np.ndarray
    step: int

    @property
    def box(self) -> np.ndarray:
        """(2, 2): two corners of the label."""
        return np.stack((self.center - self.half, self.center + self.half))

    @property
    def line(self) -> np.ndarray:
        """(2, 2): the ends of the joining line."""
        return np.stack((self.point, self.center))


class _Scene:
    """What the axes hold, in points from the corner of the figure.

    Args:
        axes: matplotlib's axes.
    """

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.scale = 72.0 / axes.figure.dpi
        self.frame = axes.bbox.get_points() * self.scale  # (2, 2): two corners
        self.markers: list[np.ndarray] = []  # (2, 2) each: two corners
        self.lines: list[np.ndarray] = []  # (2, 2) each: two ends
        for line in axes.lines:
            points = self._points(line, line.get_xydata())
            if line.get_marker() not in ("", "None"):
                half = line.get_markersize() / 2
                self.markers += [np.stack((point - half, point + half)) for point in points]
            if line.get_linestyle() != "None":
                self.lines += map(np.stack, itertools.pairwise(points))
        for bars in axes.collections:
            # An error bar of length 0 is not drawn: its segment has no points.
            self.lines += [self._points(bars, bar) for bar in bars.get_segments() if len(bar)]

    def places(self, labels: Collection[Label]) -> dict[Label, _Place]:
        """Chooses a place for each label."""
        chosen: dict[Label, _Place] = {}
        candidates = {label: self._candidates(label) for label in labels}
        for _ in range(ROUNDS):
            for label in labels:
                others = [place for other, place in chosen.items() if other is not label]
                chosen[label] = min(candidates[label], key=lambda place: place[0] + _conflicts(place[1], others))[1]
        return chosen

    def _candidates(self, label: Label) -> list[tuple[float, _Place]]:
        """All places of a label, and their costs without other labels."""
        point = self.axes.transData.transform(label.point) * self.scale
        half = self._size(label.text) / 2
        places = [
            _Place(point, point + direction * (half + distance / np.linalg.norm(direction)), half, step)
            for step, distance in enumerate(DISTANCES)
            for direction in np.array(DIRECTIONS, "float64")
        ]
        return [(self._cost(place), place) for place in places]

    def _cost(self, place: _Place) -> float:
        box = place.box
        outside = bool((box[0] < self.frame[0]).any() or (box[1] > self.frame[1]).any())
        covered = COVERS_MARKER * _count(_overlap, self.markers, box) + COVERS_LINE * _count(_pass, self.lines, box)
        return covered + OUTSIDE * outside + FARTHER * place.step

    def _size(self, text: str) -> np.ndarray:
        """(width, height) of a text."""
        drawn = self.axes.text(0, 0, text, fontsize=FONT_SIZE)
        extent = drawn.get_window_extent()
        drawn.remove()
        return np.array((extent.width * self.scale, extent.height * self.scale))

    def _points(self, artist: Any, xy: Any) -> np.ndarray:
        """Points (N, 2) of an artist, in points from the corner of the figure."""
        return np.asarray(self.scale * artist.get_transform().transform(xy))


def _conflicts(place: _Place, others: Sequence[_Place]) -> float:
    """The cost of a place between other labels and their joining lines."""
    boxes, joins = [other.box for other in others], [other.line for other in others if other.step]
    crossings = _count(_pass, joins, place.box)
    if place.step:
        crossings += _count(_cross, joins, place.line) + sum(_count(_pass, [place.line], box) for box in boxes)
    return COVERS_LABEL * _count(_overlap, boxes, place.box) + CROSSES * crossings


def _count(meets: Callable[..., np.ndarray], obstacles: Sequence[np.ndarray], own: np.ndarray) -> int:
    """The number of obstacles that a box or line meets."""
    return int(meets(np.stack(obstacles), own).sum()) if obstacles else 0


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether boxes (N, 2, 2) overlap with a box (2, 2): (N,)."""
    return np.asarray(((boxes[:, 0] < box[1]) & (boxes[:, 1] > box[0])).all(-1))


def _pass(lines: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether lines (N, 2, 2) pass through a box (2, 2): (N,). Liang and Barsky (1984)."""
    start, way = lines[:, 0], lines[:, 1] - lines[:, 0]
    sides = (box[:, None] - start) / np.where(way == 0, 1e-9, way)  # (2, N, 2): 0 at the start, 1 at the end
    return np.asarray(np.maximum(sides.min(0).max(-1), 0) <= np.minimum(sides.max(0).min(-1), 1))


def _cross(lines: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Whether lines (N, 2, 2) cross a line (2, 2): (N,). The ends of each lie on both sides of the other."""
    return (_sides(lines, line[None]) < 0) & (_sides(line[None], lines) < 0)


def _sides(lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The product of the sides (1 or -1) on which both ends of the other lines lie: (N,)."""
    (x, y), ends = (lines[:, 1] - lines[:, 0]).T, others - lines[:, :1]
    return np.asarray(np.sign(x[:, None] * ends[..., 1] - y[:, None] * ends[..., 0]).prod(-1))
