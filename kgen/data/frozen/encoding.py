"""Computes the rows of a cache of latents from images, and lists the images that are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.data.frozen.stored import Arrays
from kgen.data.reading.workers import Workers, image_of
from kgen.errors import DataError, RunError
from kgen.spaces import Space
from kgen.storage.files import locked_folder, write_text

BATCH = 16
"""Number of images that are encoded at once. A single program encodes all images, so that a latent does not depend on
the size of the batch that first needs it."""

NAME = "latent"
EXPONENT = "exponent"
"""The array of exponents, by which float16 can store large numbers: a latent is what is stored, times 2^exponent."""

MAX_EXPONENT = 15
"""All numbers below 2^15 have room in float16, also after rounding."""

PROBLEMS = "problems.json"
"""The file that lists the damaged images. The latents of other images take their places."""


class Images:
    """The images of a split, or of some of its examples, in the order of the cache's rows.

    Args:
        dataset, split: The dataset and the split.
        flip, views: See `cached_latents`.
        shape: The shape (H, W, C) of the images.
        examples: The indices of the examples; None: all of them.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        flip: bool,
        views: int,
        shape: tuple[int, ...],
        examples: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.split, self.flip, self.views, self.examples = dataset, split, flip, views, examples
        self.shape, self.copies = shape, (2 if flip else 1) * views
        self.workers: Workers | None = None

    def __len__(self) -> int:
        return self.copies * len(self.dataset.captions(self.split) if self.examples is None else self.examples)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Images uint8 (B, H, W, C)."""
        if self.examples is not None:
            places, copies = np.divmod(np.asarray(rows, np.int64), self.copies)
            rows = (self.examples[places] * self.copies + copies).tolist()
        if self.workers is not None:
            return self.workers.read(self.split, rows, self.flip, self.views, self.shape)
        return np.stack([image_of(self.dataset, self.split, row, self.flip, self.views) for row in rows])


class Encoding:
    """Computes latents of a cache, and tells the processes that share it which images are damaged.

    Args:
        folder: The folder of the cache.
        images: The images.
        program: The compiled `encode` of `BATCH` images.
    """

    def __init__(self, folder: Path, images: Images, program: Callable[[np.ndarray], Any]) -> None:
        self.folder, self.images, self.program = folder, images, program
        self._told = set(read_problems(folder))
        self._changed = _stamp(folder)

    def __call__(self, rows: Sequence[int]) -> Arrays:
        """The arrays of rows, as they are stored."""
        images = self.images.read(rows)
        self._tell_problems()
        parts = []
        for first in range(0, len(rows), BATCH):
            part = images[first : first + BATCH]
            padding = np.repeat(part[-1:], BATCH - len(part), axis=0)  # batches of one size need only one program
            parts.append(plain(self.program(np.concatenate([part, padding])))[: len(part)])
        return packed(np.concatenate(parts))

    def _tell_problems(self) -> None:
        """Writes down the damaged images, before the latents of those that take their places are written."""
        found = set(self.images.dataset.problems())
        if found <= self._told:
            return
        try:
            with locked_folder(self.folder):
                self._told = found | set(read_problems(self.folder))
                write_problems(self.folder, self._told)
        except (OSError, ValueError, RunError) as error:
            raise DataError(f"{self.folder / PROBLEMS} cannot be written: {error}") from error

    def learn_problems(self) -> None:
        """Reports the images to the dataset that another process has found damaged."""
        if (now := _stamp(self.folder)) != self._changed:
            for problem in read_problems(self.folder):
                self.images.dataset.report(problem)
            self._changed = now


def described(space: Space) -> dict[str, tuple[str, Sequence[int]]]:
    """The type and the shape of a row of each array that stores latents of a space."""
    if space.kind == "continuous":
        return {NAME: ("float16", space.shape), EXPONENT: ("int8", ())}
    return {NAME: ("int32", space.shape)}


def packed(latents: np.ndarray) -> Arrays:
    """Latents (B, ...) as they are stored: tokens as they are, floats as float16, and their exponents (B,)."""
    if latents.dtype == np.int32:
        return {NAME: latents}
    finite = np.where(np.isfinite(latents), np.abs(latents), 0.0).reshape(len(latents), -1)
    exponents = np.maximum(np.frexp(finite.max(1))[1] - MAX_EXPONENT, 0)
    return {NAME: _times_powers(latents, -exponents).astype(np.float16), EXPONENT: exponents.astype(np.int8)}


def unpacked(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Latents (B, ...), float32 or int32, from the arrays that store them."""
    return _times_powers(arrays[NAME], arrays[EXPONENT]) if EXPONENT in arrays else arrays[NAME]


def plain(latents: Any) -> np.ndarray:
    """Latents as a NumPy array: float32, or int32 for tokens."""
    array = np.asarray(keras.ops.convert_to_numpy(latents))
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)


def read_problems(folder: Path) -> list[Problem]:
    """The damaged images. Raises OSError, ValueError or TypeError if the list is missing or damaged."""
    found = json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))
    return [Problem(where, what) for where, what in found]


def write_problems(folder: Path, problems: Iterable[Problem]) -> None:
    """Replaces the list of damaged images."""
    write_text(folder / PROBLEMS, json.dumps(sorted([problem.where, problem.what] for problem in problems)))


def _times_powers(latents: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Latents (B, ...) times 2^exponent (B,)."""
    return np.asarray(np.ldexp(latents, exponents.astype(np.int32).reshape(-1, *[1] * (latents.ndim - 1))))


def _stamp(folder: Path) -> tuple[int, ...]:
    """Numbers that change with the list of problems."""
    found = (folder / PROBLEMS).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
