"""Datasets whose images show what happens in a worker process. Importing this module imports no framework."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.errors import DataError
from kgen.spaces import Space

FRAMEWORKS = ("jax", "keras", "tensorflow", "torch", "grain", "matplotlib")


def counting(start: int) -> dict[str, np.ndarray]:
    """Arrays of several types, of which some are empty, and no two are alike."""
    return {
        "bytes": np.arange(start, start + 201).astype(np.uint8).reshape(3, 67),
        "none": np.empty((0, 4), np.float32),
        "floats": np.arange(start, start + 6, dtype=np.float64).reshape(2, 3),
    }


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


class Odd(Dataset):
    """100 images of 2x2 pixels."""

    @property
    def image_space(self) -> Space:
        return Space("continuous", (2, 2, 3))

    def captions(self, split: Split) -> list[str]:
        return [f"image {i}" for i in range(100)]


class Loaded(Odd):
    """Images whose values are the number of frameworks that the process has imported."""

    def image(self, split: Split, index: int) -> np.ndarray:
        print("a plugin may print")
        return np.full((2, 2, 3), sum(name in sys.modules for name in FRAMEWORKS), np.uint8)


class Skipping(Odd):
    """Image 3 takes the place of images 1 and 2, which is known only after one of them was read."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def image(self, split: Split, index: int) -> np.ndarray:
        if index in (1, 2):
            self.found[f"image {index}"] = "broken"
        return np.full((2, 2, 3), self.replacement(split, index), np.uint8)

    def replacement(self, split: Split, index: int) -> int:
        return 3 if f"image {index}" in self.found else index

    def report(self, problem: Problem) -> None:
        self.found[problem.where] = problem.what

    def problems(self) -> list[Problem]:
        return [Problem(where, what) for where, what in sorted(self.found.items(), reverse=True)]


class Process(Odd):
    """Images that contain the number of the process."""

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.array([*os.getpid().to_bytes(8, "little"), 0, 0, 0, 0], np.uint8).reshape(2, 2, 3)


class Broken(Odd):
    """Images 8 and later are broken, and each has its own message."""

    def image(self, split: Split, index: int) -> np.ndarray:
        if index >= 8:
            raise DataError(f"image {index} is broken")
        return np.zeros((2, 2, 3), np.uint8)


class Faulty(Odd):
    """Reading images 8 and later raises an error that shows a fault of the program."""

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8) // (1 if index < 8 else index_of_nothing())


def index_of_nothing() -> int:
    return [].index(0)


class Killed(Odd):
    """Reading images 8 and later kills the process, as the system does if memory runs out."""

    def image(self, split: Split, index: int) -> np.ndarray:
        if index >= 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((2, 2, 3), np.uint8)


class Ended(Odd):
    """Reading images 8 and later raises the error of a file that ends too early, as `np.load` does."""

    def image(self, split: Split, index: int) -> np.ndarray:
        if index >= 8:
            raise EOFError("no data left in file")
        return np.zeros((2, 2, 3), np.uint8)
