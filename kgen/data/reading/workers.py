"""Processes that decode images for the loader, so that this work is spread over the cores."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.data.reading.process import PATIENCE, WITHOUT, Process
from kgen.errors import DataError

MOST = 8
"""Largest number of workers that is chosen automatically."""

MOST_BYTES = 2**28
"""Largest size of a pickled dataset for which workers are chosen automatically, because each worker has a copy."""


def image_of(dataset: Dataset, split: Split, number: int, flip: bool, views: int) -> np.ndarray:
    """An image by its number: uint8 (H, W, C). The views of an example have numbers in a row, and so have its mirrors.

    Args:
        number: (2 * index + mirrored) * views + view, or, if `flip` is not set, index * views + view.
        flip: Whether every image also has a mirror image.
        views: Number of views of each image; 1: the image itself is read, as for validation.
    """
    row, view = divmod(number, views)
    index, mirrored = divmod(row, 2) if flip else (row, 0)
    image = dataset.view(split, index, view) if views > 1 else dataset.image(split, index)
    return image[:, ::-1] if mirrored else image


def usual_workers() -> int:
    """One worker for each core that this process may use, except for one core, and at most `MOST` workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, MOST)


class Workers:
    """Reads images of a dataset with several processes, which start when they are first needed.

    If the dataset lets other processes decode (`Dataset.decoded_by`), threads of this process read the files, and the
    processes decode them. Else every process has a copy of the dataset, and reads images itself.

    Args:
        dataset: The dataset.
        count: Number of processes.

    Attributes:
        size: The size of the copy that is sent to each process, in bytes; 0 if none is sent.

    Raises:
        DataError: the dataset cannot be sent to another process.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.dataset, self.count = dataset, count
        self._idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self._decoded = dataset.decoded_by(self._call)
        pickled = b"" if self._decoded is not None else _pickled(dataset)
        self.size = len(pickled)
        processes = [Process((_hold, pickled) if pickled else None) for _ in range(count)]
        for process in processes:
            self._idle.put(process)
        self._reporting = threading.Lock()
        threads = count if self._decoded is None else 2 * count  # half of them read files
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="kgen-images")
        self._end = weakref.finalize(self, _end, self._threads, processes)

    def read(
        self,
        split: Split,
        numbers: Sequence[int],
        flip: bool = False,
        views: int = 1,
        shape: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """Images uint8 (B, H, W, C), in the numbering of `image_of`. It may be called from several threads.

        The dataset is told of the problems that a worker found, so that it knows which images were replaced.

        Args:
            shape: (H, W, C), if the images of the dataset differ in shape.

        Raises:
            Exception: what the dataset raised, for the first image for which it did.
            DataError: a worker ended.
        """
        shape = shape or self.dataset.image_space.shape
        images = np.empty((len(numbers), *shape), np.uint8)
        size = max(1, -(-len(numbers) // (2 * self.count)))

        def read(start: int) -> None:
            part = slice(start, start + size)
            if self._decoded is None:
                found, problems = self._call(_read_held, split, numbers[part], flip, views)
                self._report(problems)
            else:
                found = (image_of(self._decoded, split, number, flip, views) for number in numbers[part])
            for place, image in zip(images[part], found, strict=True):
                place[...] = _checked(image, self.dataset, shape)

        for _ in self._threads.map(read, range(0, len(numbers), size)):
            pass
        return images

    def close(self) -> None:
        """Ends the processes. Nothing can be read after that."""
        self._end()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        process = self._idle.get()
        try:
            return process.call(function, *arguments)
        finally:
            self._idle.put(process)

    def _report(self, problems: Sequence[Problem]) -> None:
        with self._reporting:
            for problem in problems:
                self.dataset.report(problem)


def make_workers(dataset: Dataset, count: int | None) -> Workers | None:
    """Makes `count` workers, or, if it is None, as many as suit the machine; None if there are none.

    If the number is not given, there are none for a dataset that cannot be sent to another process, or of which each
    worker would have a large copy.

    Raises:
        DataError: the number is given, and the dataset cannot be sent to another process.
    """
    if count is not None:
        return Workers(dataset, count) if count else None
    with contextlib.suppress(DataError):
        if (usual := usual_workers()) and (workers := Workers(dataset, usual)).size <= MOST_BYTES:
            return workers
    return None


def _checked(image: np.ndarray, dataset: Dataset, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an image; raises ValueError if it is not what the contract says."""
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"{type(dataset).__name__} returned an image {image.dtype} {image.shape}, not uint8 {shape}")
    return image


def _end(threads: ThreadPoolExecutor, processes: Sequence[Process]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.stop()
    for process in processes:
        process.wait(PATIENCE)


def _pickled(dataset: Dataset) -> bytes:
    name = type(dataset).__name__
    if type(dataset).__module__ == "__main__":
        raise DataError(f"dataset {name} is defined in the main program, which workers do not import: {WITHOUT}")
    try:
        return pickle.dumps(dataset, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # objects of other packages raise errors of any type
        raise DataError(f"dataset {name} cannot be sent to worker processes ({error}): {WITHOUT}") from error


# ---- in a worker that has a copy of the dataset ------------------------------------------------------------------

_held: list[Dataset] = []
_told: set[Problem] = set()


def _hold(pickled: bytes) -> None:
    _held.append(pickle.loads(pickled))
    _told.update(_held[0].problems())


def _read_held(split: Split, numbers: Sequence[int], flip: bool, views: int) -> tuple[list[np.ndarray], list[Problem]]:
    """Images (H, W, C), and the problems of images in whose place others were read, unless they were told before."""
    (dataset,) = _held
    images = [np.ascontiguousarray(image_of(dataset, split, number, flip, views)) for number in numbers]
    new = [problem for problem in dataset.problems() if problem not in _told]
    _told.update(new)
    return images, new
