"""Checkpoints are written in a thread while the training goes on, completely and of the right step."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import Patterns
from test_training import run

import kgen
from kgen.storage import shards, weights
from kgen.storage.background import BackgroundWriter
from kgen.training.callbacks import SaveCheckpoint
from kgen.training.checkpoint import Checkpoints, training_state

TIMEOUT = 60.0
"""Seconds after which a test that waits for another thread fails."""


def written(folder: Path) -> list[int]:
    return Checkpoints(folder / "checkpoints", 9).steps()


class Slow:
    """Writes the file of step 4 only after the training has ended step 7."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.before = threading.Event(), list[int]()
        save, follow = shards.save_variables, SaveCheckpoint.on_train_batch_end

        def slow(path: Path, *arguments: Any) -> None:
            assert "step-00000004" not in path.name or self.reached.wait(TIMEOUT)
            save(path, *arguments)

        def reach(saver: SaveCheckpoint, batch: int, logs: Any = None) -> None:
            if batch == 6:
                self.before = saver.checkpoints.steps()
                self.reached.set()
            follow(saver, batch, logs)

        monkeypatch.setattr(shards, "save_variables", slow)
        monkeypatch.setattr(SaveCheckpoint, "on_train_batch_end", reach)


@pytest.mark.backends
@pytest.mark.parametrize("ema", [0.9, {"std": [0.05, 0.1]}])
def test_the_training_goes_on_and_the_file_has_the_state_of_its_step(
    ema: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    whole, _ = run(tmp_path, 8, Patterns(), ema=ema)
    assert slow.before == [] and written(tmp_path) == [4, 8]
    (tmp_path / "checkpoints" / "step-00000008.safetensors").unlink()
    monkeypatch.undo()
    resumed, _ = run(tmp_path, 8, Patterns(), ema=ema)
    expected = training_state(whole)
    for name, variable in training_state(resumed).items():
        np.testing.assert_array_equal(variable.numpy(), expected[name].numpy(), err_msg=name)


@pytest.mark.portable
@pytest.mark.parametrize(("steps", "ended"), [(12, 5), (4, 4)])
def test_an_error_of_the_thread_ends_the_training(
    steps: int, ended: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next step, or at the end."""
    reached, follow = list[int](), SaveCheckpoint.on_train_batch_end

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def steps_reached(saver: SaveCheckpoint, batch: int, logs: Any = None) -> None:
        reached.append(batch + 1)
        while any(not future.done() for future in saver.checkpoints.writer._pending):
            time.sleep(0.01)
        follow(saver, batch, logs)

    monkeypatch.setattr(weights, "save_file", full)
    monkeypatch.setattr(SaveCheckpoint, "on_train_batch_end", steps_reached)
    with pytest.raises(kgen.RunError, match=r"the disk is full .* bytes were needed at .*step-00000004\.safetensors"):
        run(tmp_path, steps, Patterns())
    assert reached[-1] == ended and written(tmp_path) == []


@pytest.mark.portable
def test_an_interrupted_training_waits_for_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = shards.save_variables

    def slow(*arguments: Any) -> None:
        time.sleep(0.3)
        save(*arguments)

    monkeypatch.setattr(shards, "save_variables", slow)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 12, Patterns(), stop=6)
    assert written(tmp_path) == [4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kgen-writer")]


@pytest.mark.portable
@pytest.mark.parametrize("spoiled", ["a weight", "the running loss"])
def test_numbers_that_are_not_finite_are_not_written(spoiled: str, tmp_path: Path) -> None:
    """A loss can be infinite while the weights are finite: with loss scaling, such a step changes no weight."""
    pipeline, _ = run(tmp_path, 4, Patterns())
    loss = pipeline.trackers["loss"].variables[0]
    variable = pipeline.trainable_variables[0] if spoiled == "a weight" else loss
    variable.assign(variable * np.nan)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 9)
    checkpoints.save(5, pipeline)
    with pytest.raises(kgen.RunError, match=r"diverged by step 5: .*; the checkpoint of step 4 is kept"):
        checkpoints.writer.wait()
    assert checkpoints.steps() == [4]


@pytest.mark.backends
def test_copies_take_the_memory_of_those_that_are_written(tmp_path: Path) -> None:
    pipeline, _ = run(tmp_path, 4, Patterns())
    variable = pipeline.trainable_variables[0]
    name = next(name for name, other in training_state(pipeline).items() if other is variable)
    checkpoints, memory = Checkpoints(tmp_path / "checkpoints", 9), list[np.ndarray]()
    for step, value in ((5, 1.0), (6, 2.0), (6, 3.0), (7, 4.0)):
        variable.assign(np.full(variable.shape, value))
        checkpoints.save(step, pipeline)
        memory.append(checkpoints._copied[1][name])
    checkpoints.writer.wait()
    assert [memory[0] is memory[1], memory[1] is memory[2], memory[2] is memory[3]] == [True, False, True]
    for step, value in ((5, 1.0), (6, 3.0), (7, 4.0)):
        arrays, _ = weights.read_arrays(tmp_path / f"checkpoints/step-{step:08d}.safetensors")
        np.testing.assert_array_equal(arrays[name], value)


# ---- the writer -----------------------------------------------------------------------------------------------------


def after(event: threading.Event, done: list[str], name: str) -> Callable[[], None]:
    def write() -> None:
        assert event.wait(TIMEOUT)
        done.append(name)

    return write


@pytest.mark.portable
def test_the_files_of_the_next_step_wait() -> None:
    event, done, writer = threading.Event(), list[str](), BackgroundWriter()
    for name in ("snapshot", "checkpoint"):
        writer.begin(1)
        writer.submit(after(event, done, name))
    assert done == []
    threading.Timer(0.2, event.set).start()
    writer.begin(2)
    assert done == ["snapshot", "checkpoint"]


@pytest.mark.portable
def test_after_an_error_the_other_files_of_the_step_are_not_written() -> None:
    event, done, writer = threading.Event(), list[str](), BackgroundWriter()

    def fail() -> None:
        assert event.wait(TIMEOUT)
        raise OSError("the first")

    writer.begin(1)
    writer.submit(fail)
    writer.submit(after(event, done, "second"))
    writer.check()  # nothing has failed yet
    event.set()
    with pytest.raises(OSError, match="the first"):
        writer.begin(2)
    writer.begin(2)
    writer.submit(after(event, done, "third"))
    writer.wait()
    assert done == ["third"]


@pytest.mark.portable
def test_an_error_of_a_file_is_a_note_of_another_error() -> None:
    def fail() -> None:
        raise OSError("no such disk")

    with pytest.raises(ValueError, match="the data") as caught, BackgroundWriter() as writer:
        writer.begin(1)
        writer.submit(fail)
        raise ValueError("the data")
    assert caught.value.__notes__ == ["A file could not be written: no such disk"]
    with pytest.raises(OSError, match="no such disk"), BackgroundWriter() as writer:
        writer.submit(fail)


@pytest.mark.portable
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_the_thread_has_a_lower_priority_than_the_training() -> None:
    found = []
    with BackgroundWriter() as writer:
        writer.begin(1)
        writer.submit(lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    assert found == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)]


# ---- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each training is a fork")
def test_killed_at_random_moments_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Twenty processes, each killed within a write; each goes on from the newest checkpoint of the one before."""
    job = [sys.executable, str(Path(__file__).with_name("killed_writes.py")), str(tmp_path), "20"]
    done = subprocess.run(job, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("20 kills within a write, 0 broken"), done.stdout
