"""Anti-aliased shapes in numpy."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

Shape = Literal["circle", "square", "triangle", "diamond", "cross", "star"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

SAMPLES = 8
"""Number of samples per pixel in each direction."""


def coverage(shape: str, radius: float, center: tuple[float, float], size: int) -> np.ndarray:
    """The share of each pixel that a shape covers.

    Args:
        shape: One of `SHAPES`. It fills the box of half-width `radius` around `center`.
        radius: Half the width of the shape, in pixels.
        center: The center (x, y), in pixels; (0, 0) is the image's top left corner.
        size: Height and width of the image, in pixels.

    Returns:
        float64 (size, size) in [0, 1].
    """
    columns, rows = (_span(middle, radius, size) for middle in center)
    x = (_samples(columns)[None, :] - center[0]) / radius  # (1, W)
    y = (_samples(rows)[:, None] - center[1]) / radius  # (H, 1)
    inside = _inside(shape, x, y)  # (H, W)
    covered = np.zeros((size, size))
    covered[rows, columns] = inside.reshape(len(y) // SAMPLES, SAMPLES, -1, SAMPLES).mean((1, 3))
    return covered


def _span(middle: float, radius: float, size: int) -> slice:
    """The pixels that the box may cover; at least one."""
    first = min(max(math.floor(middle - radius), 0), size - 1)
    return slice(first, min(max(math.ceil(middle + radius), first + 1), size))


def _samples(span: slice) -> np.ndarray:
    return np.asarray((np.arange(span.start * SAMPLES, span.stop * SAMPLES) + 0.5) / SAMPLES)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are inside of the shape of half-width 1 around the origin; y points down."""
    box = np.maximum(np.abs(x), np.abs(y)) <= 1
    if shape == "circle":
        return np.asarray(x**2 + y**2 <= 1)
    if shape == "square":
        return np.asarray(box)
    if shape == "triangle":
        return np.asarray(box & (2 * np.abs(x) <= y + 1))
    if shape == "diamond":
        return np.asarray(np.abs(x) + np.abs(y) <= 1)
    if shape == "cross":
        return np.asarray(box & (np.minimum(np.abs(x), np.abs(y)) <= 0.3))
    if shape == "star":
        return _inside_star(x, y)
    raise ValueError(f"there is no shape {shape!r}: the shapes are {SHAPES}")


def _inside_star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A five-pointed star: a point is inside if it is inside of at least four of the five lines through the tips."""
    angles = np.pi / 2 + np.arange(5) * 2 * np.pi / 5
    sides = sum((np.cos(a) * x + np.sin(a) * y <= np.cos(2 * np.pi / 5)).astype(int) for a in angles)
    return np.asarray(sides >= 4)
