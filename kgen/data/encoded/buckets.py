"""Aspect-ratio buckets: shapes of about equal area, among which images of any aspect ratio find one that fits."""

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
"""The default number of steps in the side of a square, about. (SDXL has 16, and NovelAI has 8.)"""

SMALLEST_STEP = 4
"""The smallest limit of the default step. It is the usual patch size of a transformer."""


@dataclass(frozen=True)
class Buckets:
    """The options of aspect-ratio buckets (NovelAI 2022; Podell et al. 2023, section 2.3).

    The heights and widths of all buckets are multiples of a step. The area of a bucket is at most `size` x `size`, the
    area of the square. Each bucket is as large as possible: with one more step in height or width, it would exceed that
    area.

    An image belongs to the bucket whose aspect ratio is nearest on a logarithmic scale. The image is resized so that it
    covers the bucket, and the excess on one of its sides is cropped.

    Args:
        step: Number of pixels that divides all heights and widths. It must divide `size`. It must be a multiple of the
            network's patch or stride, times the factor of the decoder. null: the largest divisor of `size` up
            to `size` / 8 or 4, whichever is larger.
        max_aspect: Largest ratio of the longer to the shorter side, of the buckets and of the images. The longer side
            of an image may have one more pixel.
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
        """Whether the aspect ratio of an image of this shape is allowed."""
        return max(shape) - 1 <= self.max_aspect * min(shape)


def usual_step(size: int) -> int:
    """The default step: the largest divisor of `size` up to `size` / 8 or `SMALLEST_STEP`, whichever is larger."""
    limit = max(size // USUAL_PARTS, SMALLEST_STEP)
    return max(divisor for divisor in range(1, limit + 1) if size % divisor == 0)


def nearest(shapes: Sequence[Shape], images: np.ndarray) -> np.ndarray:
    """Finds the bucket with the nearest aspect ratio for each image.

    Args:
        shapes: The shapes of the buckets, as `Buckets.shapes` orders them.
        images: The shapes of images, (N, 2).

    Returns:
        (N,) indices of buckets. If two buckets are equally near, the taller one is chosen.
    """
    aspects = np.array([math.log(width / height) for height, width in shapes])  # ascending
    borders = (aspects[1:] + aspects[:-1]) / 2
    return np.asarray(np.searchsorted(borders, np.log(images[:, 1] / images[:, 0]), side="left"))


@dataclass(frozen=True)
class Assignment:
    """The buckets of a dataset's images.

    Args:
        bucket_of: The shape of the bucket of each image, by the name of the image.
        unfit: What is wrong with the images that have no bucket, by name.
        notes: Lines that describe the buckets.
    """

    bucket_of: Mapping[str, Shape]
    unfit: Mapping[str, str]
    notes: Sequence[str]


def assign(options: Buckets, shapes: Sequence[Shape], images: Mapping[str, Shape]) -> Assignment:
    """Finds the bucket of each image.

    Args:
        options: The options of the buckets.
        shapes: The shapes of the buckets, as `Buckets.shapes` orders them.
        images: The shape of each image, by name.
    """
    unfit = {
        name: f"its {named(shape)} pixels (height x width) fit into no bucket: the ratio of the sides is "
        f"{max(shape) / min(shape):.3g}, but buckets.max_aspect is {options.max_aspect:g}"
        for name, shape in images.items()
        if not options.fits(shape)
    }
    names = [name for name in images if name not in unfit]
    chosen = nearest(shapes, np.array([images[name] for name in names], np.float64).reshape(-1, 2))
    bucket_of = {name: shapes[number] for name, number in zip(names, chosen.tolist(), strict=True)}
    return Assignment(bucket_of, unfit, list(describe(shapes, images, bucket_of)) if names else [])


def rows_by_bucket(buckets: Sequence[Shape], copies: int) -> dict[Shape, np.ndarray]:
    """The indices of the examples of each bucket, from the tallest to the widest.

    Args:
        buckets: The bucket of each of N examples.
        copies: Number of copies of all examples: copy k of example i has the index k N + i.
    """
    found: dict[Shape, list[int]] = {}
    for index, bucket in enumerate(buckets):
        found.setdefault(bucket, []).append(index)
    return {
        bucket: np.concatenate([np.array(rows) + copy * len(buckets) for copy in range(copies)])
        for bucket, rows in sorted(found.items(), reverse=True)
    }


def cropped_shares(buckets: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The share of each image that is cropped, (N,), given the shape of its bucket (N, 2) and of the image (N, 2)."""
    aspects, wanted = (shapes[:, 1] / shapes[:, 0] for shapes in (images, buckets))
    return np.asarray(1 - np.minimum(aspects / wanted, wanted / aspects))


def describe(shapes: Sequence[Shape], images: Mapping[str, Shape], buckets: Mapping[str, Shape]) -> Iterator[str]:
    """Lines that say how many images each bucket has, and how much of the images is cropped.

    Args:
        shapes: The shapes of the buckets.
        images: The shape of each image, by name.
        buckets: The shape of each image's bucket, by the name of the image.
    """
    names = list(buckets)
    chosen, found = (np.array([of[name] for name in names], np.float64).reshape(-1, 2) for of in (buckets, images))
    counts = {shape: int(np.sum((chosen == shape).all(1))) for shape in shapes}
    used = ", ".join(f"{named(shape)} ({count:,})" for shape, count in counts.items() if count)
    yield f"buckets (height x width) and their numbers of images: {used}"
    shares = cropped_shares(chosen, found)
    most = names[int(np.argmax(shares))]
    yield f"{shares.mean():.1%} of an image is cropped on average, and at most {shares.max():.1%} ({most})"


def named(shape: Shape) -> str:
    """The text of a shape in messages: "48x80" means a height of 48 pixels and a width of 80."""
    return "x".join(map(str, shape))
