"""Processes that decode images for the loader, so that this work is spread over the cores."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kgen.contracts.dataset import Dataset, Decoding, Problem, Split
from kgen.data.reading.process import PATIENCE, WITHOUT, Process
from kgen.errors import DataError

MAX_WORKERS = 8
"""Largest number of workers that is chosen automatically."""

MAX_COPY_BYTES = 2**28
"""Largest size of a pickled dataset for which workers are chosen automatically, because each worker has a copy."""


def image_of(dataset: Dataset, split: Split, number: int, flip: bool, views: int) -> np.ndarray:
    """Reads an image by its number: uint8 (H, W, C). The views of the mirror image follow those of the image.

    Args:
        number: (2 * index + mirrored) * views + view, or, if `flip` is not set, index * views + view.
        flip: Whether every image also has a mirror image.
        views: Number of views of each image; 1: the image itself is read, as for validation.
    """
    index, view, mirrored = _parsed(number, flip, views)
    image = dataset.image(split, index) if view is None else dataset.view(split, index, view)
    return image[:, ::-1] if mirrored else image


def _parsed(number: int, flip: bool, views: int) -> tuple[int, int | None, bool]:
    """What a number of `image_of` stands for: the index, the view (None: the image itself), and if it is mirrored."""
    row, view = divmod(number, views)
    index, mirrored = divmod(row, 2) if flip else (row, 0)
    return index, view if views > 1 else None, bool(mirrored)


def usual_workers() -> int:
    """One worker for each core that this process may use, except for one core, and at most `MAX_WORKERS` workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, MAX_WORKERS)


class Workers:
    """Reads images of a dataset with several processes, which start when they are first needed.

    If `Dataset.decodes_elsewhere` is set, the processes call the functions that `Dataset.decoding` returns. Otherwise
    every process has a copy of the dataset, and reads images itself.

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
        pickled = b"" if dataset.decodes_elsewhere else _pickled(dataset)
        self.size = len(pickled)
        processes = [Process((_hold, pickled) if pickled else None) for _ in range(count)]
        for process in processes:
            self._idle.put(process)
        self._reporting = threading.Lock()
        threads = 2 * count if dataset.decodes_elsewhere else count  # half of them prepare calls, or read files
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
        """Reads images by their numbers (see `image_of`): uint8 (B, H, W, C). Several threads may call it.

        Problems that a worker finds are reported to the dataset, so that it knows which images were replaced.

        Args:
            shape: The shape (H, W, C) of these images; None: that of `image_space`.

        Raises:
            Exception: the first error that the dataset raised for an image.
            DataError: a worker process ended.
        """
        images = np.empty((len(numbers), *(shape or self.dataset.image_space.shape)), np.uint8)
        size = max(1, -(-len(numbers) // (2 * self.count)))
        read = self._decode if self.dataset.decodes_elsewhere else self._read_copies

        def read_part(start: int) -> None:
            part = slice(start, start + size)
            read(images[part], split, numbers[part], flip, views)

        for _ in self._threads.map(read_part, range(0, len(numbers), size)):
            pass
        return images

    def close(self) -> None:
        """Stops the processes. Nothing can be read after that."""
        self._end()

    def _read_copies(self, places: np.ndarray, split: Split, numbers: Sequence[int], flip: bool, views: int) -> None:
        """Reads images to `places` (B, H, W, C) with a process that has a copy of the dataset."""
        with self._process() as process:
            images, problems = process.call(_read_held, split, numbers, flip, views)
            for place, image in zip(places, images, strict=True):
                place[...] = _checked(image, self.dataset, place.shape)
        self._report(problems)

    def _decode(self, places: np.ndarray, split: Split, numbers: Sequence[int], flip: bool, views: int) -> None:
        """Reads images to `places` (B, H, W, C) with a process that decodes them.

        If an image has a problem, the dataset in this process reads it again, and reports the problem.
        """
        calls = [_decoding(self.dataset, split, number, flip, views) for number in numbers]
        failed = []
        with self._process() as process:
            images = process.call(_decoded, calls)
            for place, number, image in zip(places, numbers, images, strict=True):
                if image is None:
                    failed.append((place, number))
                else:
                    mirrored = _parsed(number, flip, views)[-1]
                    place[...] = _checked(image, self.dataset, place.shape)[:, :: -1 if mirrored else 1]
        for place, number in failed:
            image = image_of(self.dataset, split, number, flip, views)
            place[...] = _checked(image, self.dataset, place.shape)

    @contextlib.contextmanager
    def _process(self) -> Iterator[Process]:
        """Yields a process that no other thread uses."""
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)

    def _report(self, problems: Sequence[Problem]) -> None:
        with self._reporting:
            for problem in problems:
                self.dataset.report(problem)


def make_workers(dataset: Dataset, count: int | None) -> Workers | None:
    """Makes `count` workers. Returns None if `count` is 0.

    If `count` is None, the machine decides on the number (`usual_workers`). There are then no workers if the dataset
    cannot be sent to another process, or if each worker would have a large copy of it.

    Raises:
        DataError: `count` is given, and the dataset cannot be sent to another process.
    """
    if count is not None:
        return Workers(dataset, count) if count else None
    with contextlib.suppress(DataError):
        if (usual := usual_workers()) and (workers := Workers(dataset, usual)).size <= MAX_COPY_BYTES:
            return workers
    return None


def _checked(image: np.ndarray, dataset: Dataset, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an image. Raises ValueError if its shape or type breaks the contract of datasets."""
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"{type(dataset).__name__} returned an image {image.dtype} {image.shape}, not uint8 {shape}")
    return image


def _decoding(dataset: Dataset, split: Split, number: int, flip: bool, views: int) -> Decoding | None:
    """The function and arguments for an image; None if the dataset finds a problem with it."""
    index, view, _ = _parsed(number, flip, views)
    try:
        return dataset.decoding(split, index, view)
    except Exception:  # `image_of` then raises this error, or one that says more
        return None


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


# ---- in a worker -------------------------------------------------------------------------------------------------


def _decoded(calls: Sequence[Decoding | None]) -> list[np.ndarray | None]:
    """The images (H, W, C) that the functions return; None for an image that has a problem."""
    images: list[np.ndarray | None] = []
    for call in calls:
        image = None
        if call is not None:
            function, *arguments = call
            with contextlib.suppress(Exception):  # the training process tries again, and says what the problem is
                image = function(*arguments)
        images.append(image)
    return images


_held: list[Dataset] = []
_told: set[Problem] = set()


def _hold(pickled: bytes) -> None:
    _held.append(pickle.loads(pickled))
    _told.update(_held[0].problems())


def _read_held(split: Split, numbers: Sequence[int], flip: bool, views: int) -> tuple[list[np.ndarray], list[Problem]]:
    """Images (H, W, C), and the problems that were found since the last call."""
    (dataset,) = _held
    images = [np.ascontiguousarray(image_of(dataset, split, number, flip, views)) for number in numbers]
    new = [problem for problem in dataset.problems() if problem not in _told]
    _told.update(new)
    return images, new
