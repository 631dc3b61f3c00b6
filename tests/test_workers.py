"""Worker processes read the same images as the training process, report errors to it, and end with it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from odd_datasets import Broken, Ended, Faulty, Killed, Loaded, Odd, Process, Skipping, counting, zeros
from PIL import Image

from kgen.contracts.dataset import Dataset, Split
from kgen.data import loader as loading
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.datasets.mixture import Mixture
from kgen.data.datasets.shapes import Shapes
from kgen.data.loader import Loader
from kgen.data.reading.memory import SIZE
from kgen.data.reading.meter import Meter
from kgen.data.reading.process import Process as CallableProcess
from kgen.data.reading.workers import Workers, make_workers
from kgen.errors import DataError

pytestmark = pytest.mark.portable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 noisy images of different sizes, in two formats."""
    random = np.random.default_rng(0)
    for i in range(23):
        image = Image.fromarray(random.integers(0, 256, (20 + i, 40, 3)).astype(np.uint8))
        image.save(tmp_path / f"{i:02}.{'jpg' if i % 2 else 'png'}")
        (tmp_path / f"{i:02}.txt").write_text(f"image {i}", encoding="utf-8")
    return tmp_path


def take(loader: Loader, count: int, start: int = 0) -> np.ndarray:
    """The images of some batches."""
    batches = itertools.islice(iter(loader.training(seed=3, start=start)), count)
    return np.stack([batch["image"] for batch in batches])


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ["imagefolder", "shapes", "mixture"])
def test_batches_do_not_depend_on_the_number_of_workers(
    folder: Path, name: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY_LIMIT", 2**30 if kept else 0)
    of_folder = {"name": "imagefolder", "path": str(folder), "size": 16}
    dataset: Dataset = {
        "imagefolder": lambda: ImageFolder(path=str(folder), size=16, crops=3),
        "shapes": lambda: Shapes(size=16, count=23),
        "mixture": lambda: Mixture(datasets=({**of_folder, "weight": 2}, {**of_folder, "resize": "pad", "weight": 1})),
    }[name]()
    expected = take(Loader(dataset, None, batch_size=5, flip=True), 20)  # two passes
    assert len(np.unique(expected.reshape(100, -1), axis=0)) > 30  # of 46; shapes may repeat
    for count in (1, 2):
        workers = Workers(dataset, count)
        monkeypatch.setattr(Shapes, "image", refused)  # in this process
        monkeypatch.setattr(Image, "open", refused)
        np.testing.assert_array_equal(
            take(Loader(dataset, None, batch_size=5, flip=True, workers=workers), 20), expected
        )
        resumed = take(Loader(dataset, None, batch_size=5, flip=True, workers=workers), 7, start=13)
        np.testing.assert_array_equal(resumed, expected[13:])
        monkeypatch.undo()
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 2**30 if kept else 0)
        workers.close()


@pytest.mark.parametrize("count", [0, 2])
def test_a_damaged_image_is_replaced_with_its_caption(
    folder: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not matter which process finds the damage."""
    monkeypatch.setattr("kgen.data.encoded.images.READ_AT_START", 0)
    for number in (4, 5):
        (folder / f"{number:02}.{'jpg' if number % 2 else 'png'}").write_bytes(b"no image")
    dataset = ImageFolder(path=str(folder), size=16, on_error="skip")
    workers = make_workers(dataset, count)
    loader = Loader(dataset, Captions(), batch_size=23, workers=workers)  # type: ignore[arg-type]
    (batch,) = loader.once()
    loader.close()
    assert batch["tokens"]["number"].tolist() == [*range(4), 6, 6, 6, *range(7, 23)]
    for row in (4, 5):
        np.testing.assert_array_equal(batch["image"][row], batch["image"][6])
    assert sorted(problem.where for problem in dataset.problems()) == ["04.png", "05.jpg"]


def test_an_image_that_a_worker_replaced_is_replaced_with_its_caption() -> None:
    """The worker has a copy of the dataset, and reports the problem to the dataset of this process."""
    dataset = Skipping()
    loader = Loader(dataset, Captions(), batch_size=100, workers=Workers(dataset, 2))  # type: ignore[arg-type]
    (batch,) = loader.once()
    loader.close()
    expected = [0, 3, 3, *range(3, 100)]
    assert batch["tokens"]["number"].tolist() == batch["image"][:, 0, 0, 0].tolist() == expected


class Captions:
    """Reads the numbers in captions as an encoder does."""

    fields = ("caption",)

    def tokenize(self, captions: list[str]) -> dict[str, np.ndarray]:
        return {"number": np.array([int(caption.split()[-1]) for caption in captions])}


def refused(*_: Any) -> np.ndarray:
    raise AssertionError("the training process must not read images itself")


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    found = Workers(request.param(), 2)
    yield found
    found.close()


@pytest.mark.parametrize("workers", [Loaded], indirect=True)
def test_a_worker_imports_no_framework(workers: Workers) -> None:
    assert not np.any(workers.read("train", range(8)))


@pytest.mark.parametrize("workers", [Process], indirect=True)
def test_all_workers_read(workers: Workers) -> None:
    assert len(processes(workers)) == 2
    assert os.getpid() not in processes(workers)


@pytest.mark.parametrize("shared", [True, False])
def test_arrays_pass_through_shared_memory_or_else_through_the_pipe(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared:
        monkeypatch.setattr("kgen.data.reading.process.create", lambda: None)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("the system has no shared memory without a name")
    process = CallableProcess()
    for start in (0, 7):
        found = process.call(counting, start)
        for name, array in counting(start).items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert (process.memory is not None) == shared
    first = found["floats"].copy()
    process.call(counting, 9)
    assert np.array_equal(found["floats"], first) != shared  # the next call overwrites shared arrays
    large = process.call(zeros, SIZE + 1)
    assert large.shape == (SIZE + 1,) and not large[::4096].any()
    process.stop()
    process.wait(10)


@pytest.mark.parametrize("workers", [Broken], indirect=True)
def test_the_first_error_is_that_of_the_dataset(workers: Workers) -> None:
    for _ in range(2):  # a worker goes on after an error
        with pytest.raises(DataError, match=r"^image 8 is broken$") as caught:
            workers.read("train", range(20))
        assert not getattr(caught.value, "__notes__", [])
        assert len(workers.read("train", range(8))) == 8
    loader = Loader(Broken(), None, batch_size=10, workers=workers)
    with pytest.raises(DataError, match=r"^image \d+ is broken"):
        take(loader, 1)


@pytest.mark.parametrize("workers", [Faulty], indirect=True)
def test_a_fault_comes_with_the_traceback_of_the_worker(workers: Workers) -> None:
    with pytest.raises(ValueError, match="not in list") as caught:
        workers.read("train", range(20))
    assert "in index_of_nothing" in caught.value.__notes__[0]


@pytest.mark.parametrize("workers", [Ended], indirect=True)
def test_the_end_of_a_file_does_not_end_the_worker(workers: Workers) -> None:
    for _ in range(2):
        with pytest.raises(EOFError, match="no data left in file"):
            workers.read("train", range(20))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize("workers", [Killed], indirect=True)
def test_a_killed_worker_is_an_error_that_says_what_to_do(workers: Workers) -> None:
    with pytest.raises(DataError, match=r"ended by signal 9: if memory ran out, make fit.workers smaller; or set"):
        workers.read("train", range(20))


class Local(Odd):
    """A dataset that contains something that cannot be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)


class Main(Odd):
    """A dataset of a script or notebook."""

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)


def test_a_dataset_that_cannot_be_sent_is_read_by_threads_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.data.reading.workers.usual_workers", lambda: 2)
    assert make_workers(Local(), None) is None and make_workers(Local(), 0) is None
    with pytest.raises(DataError, match=r"Local cannot be sent to worker processes .*lock.*: set fit.workers to 0"):
        make_workers(Local(), 1)
    monkeypatch.setattr(Main, "__module__", "__main__")
    assert make_workers(Main(), None) is None
    with pytest.raises(DataError, match="Main is defined in the main program, which workers do not import"):
        make_workers(Main(), 1)
    assert make_workers(Loaded(), 0) is None
    found = make_workers(Loaded(), None)
    assert found is not None and found.count == 2
    monkeypatch.setattr("kgen.data.reading.workers.MAX_COPY_BYTES", 10)
    assert make_workers(Loaded(), None) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_workers_ignore_signals_and_end_with_the_training_process() -> None:
    workers = Workers(Process(), 2)
    running = processes(workers)
    for number, process in itertools.product((signal.SIGINT, signal.SIGTERM), running):
        os.kill(process, number)
    assert processes(workers) == running
    workers.close()
    assert not any(psutil.pid_exists(process) for process in running)
    program = (
        "import os, signal; from odd_datasets import Process; from kgen.data.reading.workers import Workers\n"
        "workers = Workers(Process(), 2); images = workers.read('train', range(8))\n"
        "print(*{int.from_bytes(bytes(image.reshape(-1)[:8]), 'little') for image in images}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    left = [int(number) for number in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(left) == 2 and not done.stderr
    until = time.monotonic() + 10
    while any(psutil.pid_exists(process) for process in left) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(process) for process in left)


def processes(workers: Workers) -> set[int]:
    """The numbers of the processes that read images."""
    images = workers.read("train", range(40))
    return {int.from_bytes(bytes(image.reshape(-1)[:8]), "little") for image in images}


def test_the_meter_counts_the_time_in_which_at_least_one_batch_is_read() -> None:
    meter = Meter()
    began = time.perf_counter()
    with meter.reading(3), meter.reading(4):
        time.sleep(0.05)
    read = time.perf_counter() - began
    time.sleep(0.05)
    count, busy = meter.now()
    assert count == 7 and 0.05 <= busy <= read
