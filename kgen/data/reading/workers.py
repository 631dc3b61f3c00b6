"""Processes that read and decode images for the loader, so that this work is spread over the cores.

A worker imports the module of the dataset, but no framework: it starts within half a second and takes 50 MB of memory.
(A process of grain imports JAX where it is installed, and imports the main program again.)

Requests and images pass through pipes. Pipes need no shared memory, which is scarce in containers, and of which killed
processes leave pieces behind. They cost a tenth of a millisecond per image of 256x256 pixels. A worker ends when its
pipe is closed, and therefore also if the training process is killed. It ignores Ctrl-C and SIGTERM: the training
process completes its step, and then closes the pipes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np

from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.errors import DataError, KgenError

MOST = 8
"""Largest number of workers that is chosen automatically."""

MOST_BYTES = 2**28
"""Largest size of a pickled dataset for which workers are chosen automatically, because each worker has a copy."""

PIPE = 2**20
"""Size of the buffer of a pipe, in bytes, where the system allows it."""

PATIENCE = 5.0
"""Seconds that workers have to end before they are killed."""

PROGRAM = (
    "import pickle, sys; sys.path = pickle.load(sys.stdin.buffer); from kgen.data.reading.workers import work; work()"
)
"""The program of a worker. It is no function of `multiprocessing`, which would import the main program."""

WITHOUT = "set fit.workers to 0, so that threads of the training process read the images"


class Request(NamedTuple):
    """Images of a split to read, in the numbering of `image_of`."""

    split: Split
    numbers: Sequence[int]
    flip: bool
    views: int


class Reply(NamedTuple):
    """The answer to a request. Unless it has an error, the bytes of the images follow it.

    Args:
        problems: What was wrong with images in whose place others were read, unless the worker has said it before.
        error: What was raised in place of the images.
    """

    problems: Sequence[Problem] = ()
    error: Exception | None = None


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


# ---- the training process ----------------------------------------------------------------------------------------


class Workers:
    """Reads images of a dataset in several processes, which start at the first call of `read`.

    Args:
        dataset: The dataset, of which every process has a copy.
        count: Number of processes.

    Attributes:
        size: The size of the copy that is sent to each process, in bytes.

    Raises:
        DataError: the dataset cannot be sent to another process.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.dataset, self.count = dataset, count
        pickled = _pickled(dataset)
        self.size = len(pickled)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        processes = [_Process(pickled) for _ in range(count)]
        for process in processes:
            self._idle.put(process)
        self._reporting = threading.Lock()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="kgen-images")
        self._end = weakref.finalize(self, _end, self._threads, processes)

    def read(self, split: Split, numbers: Sequence[int], flip: bool = False, views: int = 1) -> np.ndarray:
        """Images uint8 (B, H, W, C), in the numbering of `image_of`. It may be called from several threads.

        The dataset is told of the problems that a worker found, so that it knows which images were replaced.

        Raises:
            Exception: what the dataset raised, for the first image for which it did.
            DataError: a worker ended.
        """
        images = np.empty((len(numbers), *self.dataset.image_space.shape), np.uint8)
        size = max(1, -(-len(numbers) // (2 * self.count)))
        starts = range(0, len(numbers), size)
        requests = [Request(split, numbers[start : start + size], flip, views) for start in starts]
        for _ in self._threads.map(self._ask, requests, [images[start : start + size] for start in starts]):
            pass
        return images

    def close(self) -> None:
        """Ends the processes. Nothing can be read after that."""
        self._end()

    def _ask(self, request: Request, images: np.ndarray) -> None:
        process = self._idle.get()
        try:
            reply = process.ask(request, images)
        finally:
            self._idle.put(process)
        with self._reporting:
            for problem in reply.problems:
                self.dataset.report(problem)
        if reply.error is not None:
            raise reply.error


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


class _Process:
    """A worker, which starts with the first request, as seen by the training process."""

    def __init__(self, dataset: bytes) -> None:
        self.dataset = dataset
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Request, images: np.ndarray) -> Reply:
        """Reads images (rows, H, W, C) into an array, unless the reply has an error."""
        try:
            if self.process is None:
                self.process = _started(self.dataset)
                self.dataset = b""
            assert self.process.stdin is not None and self.process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # the worker may have said why before it ended
                pickle.dump(request, self.process.stdin)
                self.process.stdin.flush()
            reply = pickle.load(self.process.stdout)
            if reply.error is None:
                _receive(self.process.stdout, images)
            return cast(Reply, reply)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(
                f"a worker process that reads images ended {self._how()}: if memory ran out, make fit.workers smaller; "
                f"or {WITHOUT}"
            ) from error

    def stop(self) -> None:
        """Closes the pipe of requests, at whose end the worker ends."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for the end of the worker, and kills it if it takes longer."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _how(self) -> str:
        if self.process is None:
            return "before it began"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(PATIENCE)
            return f"by signal {-code}" if code < 0 else f"with status {code}"
        return "its output"


def _started(dataset: bytes) -> subprocess.Popen[bytes]:
    """A new worker in a process group of its own, so that Ctrl-C does not reach it while it starts."""
    group: dict[str, Any] = {"process_group": 0}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **group)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ImportError, AttributeError, OSError):  # only Linux has it, and it has a limit
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE)
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(sys.path, process.stdin)
        process.stdin.write(dataset)
    return process


def _receive(stream: IO[bytes], images: np.ndarray) -> None:
    rest = _bytes(images)
    while rest:
        if not (count := stream.readinto(rest)):  # type: ignore[attr-defined]  # of a BufferedReader
            raise EOFError
        rest = rest[count:]


def _bytes(images: np.ndarray) -> memoryview:
    """The bytes of images, without a copy."""
    return images.reshape(-1).view(np.uint8).data


def _end(threads: ThreadPoolExecutor, processes: Sequence[_Process]) -> None:
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


# ---- a worker ----------------------------------------------------------------------------------------------------


def work() -> None:
    """The main function of a worker: reads the dataset and then requests from stdin, and writes replies to stdout."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints must not be among the replies
    with contextlib.suppress(EOFError, OSError):  # the training process has ended
        try:
            dataset = pickle.load(requests)
        except EOFError:
            raise
        except Exception as error:
            _send(replies, Reply(error=_portable(error)), [])
            return
        told = set(dataset.problems())
        while True:
            images, failure = _images(dataset, pickle.load(requests))
            new = [problem for problem in dataset.problems() if problem not in told]
            _send(replies, Reply(new, failure), images)
            told.update(new)


def _images(dataset: Dataset, request: Request) -> tuple[list[np.ndarray], Exception | None]:
    """Images (H, W, C), or an error in place of them."""
    images, shape = [], dataset.image_space.shape
    try:
        for number in request.numbers:
            image = image_of(dataset, request.split, number, request.flip, request.views)
            if image.shape != shape or image.dtype != np.uint8:
                name = type(dataset).__name__
                raise ValueError(f"{name} returned an image {image.dtype} {image.shape}, and not uint8 {shape}")
            images.append(image)
    except Exception as error:
        return [], _portable(error)
    return images, None


def _send(stream: BinaryIO, reply: Reply, images: Sequence[np.ndarray]) -> None:
    pickle.dump(reply, stream)
    for image in images:
        stream.write(_bytes(np.ascontiguousarray(image)))
    stream.flush()


def _portable(error: Exception) -> Exception:
    """An error that can be sent to the training process. A fault of the program has the worker's traceback."""
    if not isinstance(error, KgenError):
        error.add_note(f"In a worker process:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
