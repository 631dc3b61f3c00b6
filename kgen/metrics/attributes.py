"""Reads color, shape, size and position from images of `Shapes`, and compares them with the prompts.

It searches for the most likely scene. If an image is white, with an object of color c where the template t covers it,
and with Gaussian noise, then the log-likelihood ratio of "this object is here" is, up to a factor,

    score(c, t) = 2 <y, c t> - |c t|^2 = |y|^2 - |y - c t|^2,        y = 255 - image, c = 255 - color

(Turin 1960, "An introduction to matched filters"). The search covers all colors, shapes, sizes and places in the image:
first pixel by pixel, with correlations from a Fourier transform, then in quarters of a pixel around the best place.
There the object may be paler than its color, for example because of blurred edges. The score is the largest of

    score(a, c, t) = 2 a <y, c t> - a^2 |c t|^2,        PALEST <= a <= 1,

so that a pale black is not confused with brown. The object is then subtracted, and the search continues with the rest.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from kgen.contracts.metric import GeneratedImages, Metric
from kgen.data.datasets.drawing import SHAPES, coverage
from kgen.data.datasets.shapes import COLORS, POSITIONS, RADII, Scene, Shapes, Thing, parse
from kgen.errors import DataError

MIN_LIKENESS = 0.5
"""An object exists if its score is at least this share of the score of a perfect object."""

PALEST = 0.6
"""Strength of the palest object that is still recognized in its color."""

MAX_OBJECTS = 3
"""Largest number of objects to find: one more than in a scene, to detect an additional one."""

MAX_SIZE = 64
"""Height and width, in pixels, that are sufficient for reading."""

PHASES = 4
"""Number of places per pixel in each direction, in the fine search."""

PALETTE = 255.0 - np.array(list(COLORS.values()), float)  # (C, 3)
ENERGIES = np.square(PALETTE).sum(1)  # (C,)
KINDS = tuple(itertools.product(SHAPES, RADII))


class Attributes(Metric):
    """Whether the images show the attributes in their prompts. "color", "shape", "size" and "position" are the shares
    of the objects in the prompts that have the right attribute; a missing object has none. "accuracy" is the share of
    images that show all objects with all attributes, and no other object.

    The oracle makes no mistakes on the dataset's own images.
    """

    requires: ClassVar[type[Any] | None] = Shapes
    headline: ClassVar[str | None] = "accuracy"
    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def update(self, batch: GeneratedImages) -> None:
        pairs = [(parse(prompt), read(image)) for image, prompt in zip(batch.images, batch.prompts, strict=True)]
        right = np.concatenate([_right(*pair) for pair in pairs])  # (objects, attributes)
        exact = [sorted(wanted) == sorted(found) for wanted, found in pairs]
        self.add(right=right.sum(0), objects=len(right), exact=sum(exact), images=len(exact))

    def compute(self) -> Mapping[str, float]:
        shares = self.sums["right"] / self.sums["objects"]  # (attributes,)
        accuracy = self.sums["exact"] / self.sums["images"]
        return {**dict(zip(Thing._fields, map(float, shares), strict=True)), "accuracy": float(accuracy)}


def read(image: np.ndarray) -> Scene:
    """Reads up to `MAX_OBJECTS` objects of an image, uint8 (size, size, 3), the clearest first."""
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise DataError(f"attributes: images must be square and in color, not of the shape {image.shape}")
    remains = _shrink(255.0 - image.astype(float))  # (H, W, 3)
    templates = _Templates.of(len(remains))
    found: list[Thing] = []
    while len(found) < MAX_OBJECTS and np.square(remains).sum() >= templates.least_energy:
        thing, rendered, likeness = templates.search(remains)
        if likeness < MIN_LIKENESS:
            break
        found.append(thing)
        remains = remains - rendered
    return tuple(found)


def _right(wanted: Scene, found: Scene) -> np.ndarray:
    """Whether each attribute is right, (objects, 4), for the best assignment of found objects to wanted ones."""
    padded = [*found, *[None] * len(wanted)]
    tables = [
        np.array(
            [
                [f is not None and a == b for a, b in zip(w, f or w, strict=True)]
                for w, f in zip(wanted, order, strict=True)
            ]
        )
        for order in itertools.permutations(padded, len(wanted))
    ]
    return max(tables, key=np.sum)


def _shrink(image: np.ndarray) -> np.ndarray:
    """Halves large images while that is exact, because `MAX_SIZE` pixels are sufficient for reading."""
    while len(image) > MAX_SIZE and len(image) % 2 == 0:
        half = len(image) // 2
        image = image.reshape(half, 2, half, 2, -1).mean((1, 3))
    return image


class _Templates:
    """All shapes in all sizes, in boxes of k x k pixels, at `PHASES` x `PHASES` places between pixels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.k = k = 2 * math.ceil(max(RADII.values()) * size) + 3
        places = [(k / 2 + x / PHASES, k / 2 + y / PHASES) for y in range(PHASES) for x in range(PHASES)]
        self.boxes = np.array(
            [[coverage(shape, RADII[name] * size, place, k) for place in places] for shape, name in KINDS]
        )  # (K, P, k, k)
        self.squares = np.square(self.boxes).sum((2, 3))  # (K, P)
        # no score is above |y|^2
        self.least_energy = MIN_LIKENESS * self.squares.min() * ENERGIES.min()
        self.padded = size + 2 * k
        self.spectra = np.fft.rfft2(self.boxes[:, 0], (self.padded, self.padded)).conj()  # (K, N, N / 2 + 1)

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def of(size: int) -> _Templates:
        return _Templates(size)

    def search(self, y: np.ndarray) -> tuple[Thing, np.ndarray, float]:
        """The most likely object of y, (size, size, 3): the object, its image in y, and its likeness, at most 1."""
        padded = np.pad(y, ((self.k, self.k), (self.k, self.k), (0, 0)))  # (N, N, 3)
        row, column = self._coarse(padded)
        k, steps = self.k, (-1, 0, 1)
        corners = [(row + i, column + j) for i in steps for j in steps]
        windows = np.array([padded[i : i + k, j : j + k] for i, j in corners])  # (9, k, k, 3)
        correlations = np.tensordot(self.boxes, windows, axes=((2, 3), (1, 2)))  # (K, P, 9, 3)
        expected = self.squares[:, :, None, None] * ENERGIES  # (K, P, 1, C)
        products = correlations @ PALETTE.T  # (K, P, 9, C)
        strengths = np.clip(products / expected, PALEST, 1.0)
        scores = 2 * strengths * products - strengths**2 * expected
        kind, place, corner, color = np.unravel_index(scores.argmax(), scores.shape)
        canvas = np.zeros_like(padded)
        i, j = corners[corner]
        strength = strengths[kind, place, corner, color]
        canvas[i : i + k, j : j + k] = strength * self.boxes[kind, place, :, :, None] * PALETTE[color]
        center = (
            (j - k / 2 + place % PHASES / PHASES) / self.size,
            (i - k / 2 + place // PHASES / PHASES) / self.size,
        )
        thing = Thing(list(COLORS)[color], *KINDS[kind], _nearest_position(center))
        likeness = scores[kind, place, corner, color] / expected[kind, place, 0, color]
        return thing, canvas[k:-k, k:-k], float(likeness)

    def _coarse(self, padded: np.ndarray) -> tuple[int, int]:
        """The row and column, in the padded image, of the box of the most likely object."""
        spectrum = np.fft.rfft2(padded, axes=(0, 1))  # (N, N / 2 + 1, 3)
        products = spectrum * self.spectra[..., None]  # (K, N, N / 2 + 1, 3)
        channels = np.fft.irfft2(products, (self.padded, self.padded), axes=(1, 2))  # (K, N, N, 3)
        expected = self.squares[:, :1, None, None] * ENERGIES  # (K, 1, 1, C)
        best = (2 * channels @ PALETTE.T - expected).max((0, 3))[1 : -self.k, 1 : -self.k]  # (N', N')
        row, column = np.unravel_index(best.argmax(), best.shape)
        return int(row) + 1, int(column) + 1


def _nearest_position(center: tuple[float, float]) -> str:
    return min(POSITIONS, key=lambda name: math.dist(POSITIONS[name], center))
