"""Aspect-ratio buckets: shapes of about equal area, so that images of any aspect ratio are hardly cropped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from kgen.data.images import Shape
from kgen.errors import DataError

USUAL_PARTS = 8
"""The usual number of steps in the side of a square. (Podell et al. 2023, SDXL, have 16, and NovelAI has 8.)"""

SMALLEST_STEP = 4
"""The smallest step that is chosen automatically, because it is the usual patch of a transformer."""


@dataclass(frozen=True)
class Buckets:
    """The options of aspect-ratio buckets (NovelAI 2022; Podell et al. 2023, section 2.3).

    Heights and widths of the buckets are multiples of a step. The area of a bucket is at most that of a square of the
    option `size`. No larger bucket would have it: a step more in height or width would exceed that area.

    An image belongs to the bucket of the nearest aspect ratio, measured by its logarithm. It is scaled so that it
    covers the bucket, and what exceeds it on one of the sides is cut off.

    Args:
        step: The number of pixels that divides all heights and widths. It must divide `size`, and the network's patch
            or stride, times the factor of the decoder, must divide it. null: the largest divisor of `size` that is at
            most an eighth of it, or 4.
        max_aspect: Largest ratio of the longer to the shorter side. It limits the buckets and the images, whose longer
            side may have one pixel more.
    """

    step: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_aspect: Annotated[float, Field(ge=1, le=16)] = 2.0

    def shapes(self, size: int) -> tuple[Shape, ...]:
        """All shapes, from the tallest to the widest.

        Raises:
            DataError: the step does not divide `size`.
        """
        step = self.step or usual_step(size)
        if size % step:
            raise DataError(f"buckets.step: {step} does not divide size {size}: choose a divisor of {size}")
        side = size // step
        tallest = math.floor(side * math.sqrt(self.max_aspect))
        areas = ((height, side**2 // height) for height in range(1, tallest + 1))
        found = {height: width for height, width in areas if side**2 // width == height}
        return tuple(
            (height * step, width * step)
            for height, width in sorted(found.items(), reverse=True)
            if max(height, width) <= self.max_aspect * min(height, width)
        )

    def fits(self, shape: Shape) -> bool:
        """Whether an image of a shape belongs to a bucket."""
        return max(shape) - 1 <= self.max_aspect * min(shape)


def usual_step(size: int) -> int:
    """The largest divisor of `size` that is at most an eighth of it, or `SMALLEST_STEP`."""
    limit = max(size // USUAL_PARTS, SMALLEST_STEP)
    return max(divisor for divisor in range(1, limit + 1) if size % divisor == 0)


def nearest(shapes: Sequence[Shape], images: np.ndarray) -> np.ndarray:
    """The index of the bucket of the nearest aspect ratio.

    Args:
        shapes: The shapes of the buckets, as `Buckets.shapes` orders them.
        images: The shapes of images, (N, 2).

    Returns:
        (N,) indices. If two buckets are equally near, it is the taller one.
    """
    aspects = np.array([math.log(width / height) for height, width in shapes])  # ascending
    borders = (aspects[1:] + aspects[:-1]) / 2
    return np.asarray(np.searchsorted(borders, np.log(images[:, 1] / images[:, 0]), side="left"))


def cropped_shares(buckets: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The share of each image that is cut off, (N,), given the shapes of its bucket (N, 2) and of the image (N, 2)."""
    aspects, wanted = (shapes[:, 1] / shapes[:, 0] for shapes in (images, buckets))
    return np.asarray(1 - np.minimum(aspects / wanted, wanted / aspects))


def describe(shapes: Sequence[Shape], images: Mapping[str, Shape], of: Mapping[str, Shape]) -> Iterator[str]:
    """Lines that say how many images each bucket has, and how much of them is cut off.

    Args:
        shapes: The shapes of the buckets.
        images: The shape of each image, by name.
        of: The shape of the bucket of each image.
    """
    names = list(of)
    chosen, found = (np.array([given[name] for name in names], np.float64).reshape(-1, 2) for given in (of, images))
    counts = {shape: int(np.sum((chosen == shape).all(1))) for shape in shapes}
    used = ", ".join(f"{named(shape)} ({count:,})" for shape, count in counts.items() if count)
    yield f"buckets, height x width, with their number of images: {used}"
    shares = cropped_shares(chosen, found)
    most = names[int(np.argmax(shares))]
    yield f"on average, {shares.mean():.1%} of an image are cut off; at most {shares.max():.1%} ({most})"


def named(shape: Shape) -> str:
    """A shape in messages: 48x80 is 48 pixels high, and 80 wide."""
    return "x".join(map(str, shape))
