"""Ctrl-C and SIGTERM end a training soon, at any moment, with a checkpoint from which it goes on exactly."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import Patterns
from test_training import FIT, Vanishing, Whole, make, run, whole  # noqa: F401 (a fixture)

import kgen
from kgen.config import FitConfig, RunConfig
from kgen.contracts.dataset import Split
from kgen.data.loader import Loader
from kgen.errors import RunInterruptedError
from kgen.runs import run as runs
from kgen.training.checkpoint import Checkpoints, training_state
from kgen.training.distribution.base import Distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import Journal, read_rows
from kgen.training.outputs import Sheets
from kgen.training.signals import StopSignals

pytestmark = pytest.mark.portable


def interrupted(folder: Path, steps: int = 12, **options: Any) -> Progress:
    """Trains up to a signal. `options` are arguments of `train`."""
    dataset = Vanishing()
    pipeline = make(dataset)
    fit = FitConfig(steps=steps, **{**FIT, "checkpoint_every": 100})
    compile_model(pipeline, fit)
    data = Loader(dataset, pipeline.encoder, batch_size=4)
    unseen = options.pop("validation", None)
    return train(
        pipeline,
        fit,
        folder,
        data=data,
        validation=unseen and Loader(unseen, pipeline.encoder, batch_size=4, split="validation"),
        distribution=Distribution(),
        seed=0,
        **options,
    )


def goes_on_as(whole: kgen.Pipeline, folder: Path) -> None:  # noqa: F811
    pipeline, progress = run(folder, 12, Vanishing())
    assert (progress.step, progress.interrupted) == (12, False)
    expected = training_state(whole)
    for name, variable in training_state(pipeline).items():
        np.testing.assert_array_equal(variable.numpy(), expected[name].numpy(), err_msg=name)


class Scored:
    """Keeps the steps at which it is called."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, step: int, journal: Journal) -> None:
        self.steps.append(step)

    def has(self, step: int) -> bool:
        return step in self.steps


class Signalling(Vanishing):
    """Its first validation image sends SIGTERM."""

    def image(self, split: Split, index: int) -> np.ndarray:
        if (split, index) == ("validation", 0):
            signal.raise_signal(signal.SIGTERM)
        return super().image(split, index)


def test_sigterm_in_a_validation(whole: Whole, tmp_path: Path) -> None:  # noqa: F811
    progress = interrupted(tmp_path, validation=Signalling())
    assert (progress.step, progress.interrupted) == (5, True)
    assert not any(row["val_loss"] for row in read_rows(tmp_path / "metrics.csv"))
    goes_on_as(whole[1], tmp_path)


def test_sigterm_while_images_are_generated(whole: Whole, tmp_path: Path) -> None:  # noqa: F811
    saved: dict[int, list[int]] = {}
    scores = Scored()
    drawn: list[Any] = []

    def draw(path: Path) -> None:
        drawn.append(path.name)
        step = int(path.stem.split("-")[1])
        saved[step] = Checkpoints(tmp_path / "checkpoints", 9).steps()
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    options = {"sheets": Sheets(tmp_path, "samples", draw), "sample_every": 2, "scores": scores, "evaluate_every": 2}
    progress = interrupted(tmp_path, **options)
    assert saved == {2: [2], 4: [4]}  # also a killed process would go on from these steps
    assert drawn == ["step-00000002.png", "step-00000002-raw.png", "step-00000004.png"] and scores.steps == [2]
    assert (progress.step, progress.interrupted) == (5, True)
    goes_on_as(whole[1], tmp_path)


def test_sigterm_after_the_last_step(tmp_path: Path) -> None:
    sheets = Sheets(tmp_path, "samples", lambda path: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    progress = interrupted(tmp_path, 3, sheets=sheets, sample_every=3)
    assert (progress.step, progress.interrupted) == (3, True)  # the run does not go on to its evaluation
    assert signal.getsignal(signal.SIGTERM) is before
    assert Checkpoints(tmp_path / "checkpoints", 9).steps() == [3]


CACHED = {
    "data": {"name": "made/patterns", "count": 2000, "size": 4},
    "encoder": "made/words",
    "generator": "made/painter",
    "decoder": {"name": "made/codec", "fit": {"steps": 1, "batch_size": 4, "warmup_steps": 0}},
    "fit": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
    "sample": {"every": 0},
    "loggers": [],
}


def test_sigterm_while_latents_are_cached(made_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image takes 10 ms, so that the cache would take 20 s."""
    image, sent, read, lines = Patterns.image, list[float](), list[int](), list[str]()

    def slow(self: Patterns, split: Split, index: int) -> np.ndarray:
        if any("latents" in line and "are computed now" in line for line in lines):
            time.sleep(0.01)
            read.append(index)
        return image(self, split, index)

    def send() -> None:
        while len(read) < 20:
            time.sleep(0.01)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Patterns, "image", slow)
    monkeypatch.setattr("kgen.data.frozen.filling.MAX_COPY_BYTES", -1)  # so that it is filled before the first step
    before, thread = signal.getsignal(signal.SIGTERM), threading.Thread(target=send, daemon=True)
    thread.start()
    with pytest.raises(RunInterruptedError, match="stopped by SIGTERM; what is finished is kept"):
        runs.run(RunConfig.from_dict(CACHED), tmp_path / "run", log=lines.append)
    assert time.monotonic() - sent[0] < 10 and len(read) < 1000
    assert not Checkpoints(tmp_path / "run" / "checkpoints", 1).steps()
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_end_together() -> None:
    """A worker that has received a signal goes on until all of them know of it."""
    told = list[bool]()

    def shared(flag: bool) -> bool:
        told.append(flag)
        return len(told) > 2

    signals = StopSignals(shared)
    signals.listen()
    try:
        signals.share()
        signal.raise_signal(signal.SIGTERM)
        signals.share()
        assert not signals.received
        signals.share()
        assert signals.received and told == [False, True, True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signals.ignore()
