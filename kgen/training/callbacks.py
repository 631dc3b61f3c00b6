"""Callbacks of a training: journal, validation, checkpoints, sample grids, and a clean stop.

A training is one Keras epoch. Every callback counts steps from the beginning of the run, not of the process.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.memory import accelerator_memory
from kgen.backend.stream import Watched
from kgen.data.loader import Loader
from kgen.data.reading.meter import Meter
from kgen.training.averages import (
    averaged_weights,
    fixed_noise,
    inner_optimizer,
    kept_metrics,
    metric_values,
    set_metrics,
    weight_averages,
)
from kgen.training.checkpoint import Checkpoints, diverged
from kgen.training.distribution.base import Distribution
from kgen.training.journal import Journal, read_rows
from kgen.training.outputs import Sheets, StepScores
from kgen.training.signals import StopSignals

OF_OPTIMIZER = ("learning_rate", "gradient_norm")
"""The numbers of the optimizer that a row of the journal has: names of its attributes, and of the columns."""

SPEED = ("images_per_second", "input_wait", "input_images_per_second")
"""The columns about speed."""

MEMORY = "memory"
"""The column about the memory of the accelerator."""


class StepCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls `at_step` after each multiple of `every` steps, and after the last step.

    Args:
        start: The step at which this process began.
        total: The last step of the run.
        every: Steps between two calls; 0: it is never called.
    """

    def __init__(self, start: int, total: int, every: int) -> None:
        super().__init__()
        self.start, self.total, self.every = start, total, every

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.start + batch + 1
        if self.is_due(step):
            self.synchronize()
            self.at_step(step, {name: _scalar(value) for name, value in (logs or {}).items()})

    def is_due(self, step: int) -> bool:
        """Whether there is a call after this step."""
        return bool(self.every) and (step % self.every == 0 or step == self.total)

    def synchronize(self) -> None:
        """Updates the variables on JAX, whose `fit` keeps their values elsewhere."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        raise NotImplementedError

    def missing(self, step: int) -> Sequence[Callable[[], None]]:
        """What an earlier process had to do after a step, and has not done, as functions that do it.

        Default: nothing. A callback that comes before `SaveCheckpoint` has always done its work if there is a
        checkpoint of the step, unless a signal can end this work early.
        """
        return ()


class Position(keras.callbacks.Callback):  # type: ignore[misc]
    """Stores the last completed step, or None during a step, and asks all workers whether a signal ends the training.

    It must be the first of the callbacks.
    """

    def __init__(self, start: int, signals: StopSignals) -> None:
        super().__init__()
        self.start, self.signals = start, signals
        self.step: int | None = start

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self.start + batch + 1
        self.signals.share()


class Log(StepCallback):
    """Writes the mean losses since the last row to the journal, and stops a training that has diverged.

    A row also has the learning rate, and "gradient_norm", the global norm of the gradient before clipping, both of the
    row's last step. If the trained part records at which levels its losses are (`kgen.pipeline.levels`), the row has
    the mean loss since the last row in each part of their range that occurred, such as "loss_t_0.1..0.2".

    Three numbers are about speed, all since the last row:

    - "images_per_second": the images that were trained on, divided by the time.
    - "input_wait": the time that a step waited for its batch, in seconds; the mean over the steps.
    - "input_images_per_second": the images that the loader of this process read, divided by the time in which it was
      reading at least one batch (`Meter`). The loader does not read while enough batches are ready. This number is
      therefore the speed of a training that always waits for the loader; or a little less, because a loader with few
      batches to fill reads fewer of them at the same time. A row lacks this number if nothing was read.

    With an accelerator, "memory" is the largest memory of its tensors since this process began, in MiB.

    After a resume, the losses of the first row also cover the steps before it, because the checkpoint has their sums.

    Args:
        start, total, every: See `StepCallback`.
        journal: The journal.
        checkpoints: The checkpoints, which the error about a diverged training names.
        data: The training batches.
        batch: The batch size.
        meter: The measurement of the loader.
    """

    def __init__(
        self,
        start: int,
        total: int,
        every: int,
        journal: Journal,
        checkpoints: Checkpoints,
        data: Watched,
        batch: int,
        meter: Meter,
    ) -> None:
        super().__init__(start, total, every)
        self.journal, self.checkpoints, self.data, self.batch, self.meter = journal, checkpoints, data, batch, meter
        self.last = self._now(start)

    def on_train_begin(self, logs: Any = None) -> None:
        self.last = self._now(self.start)
        self.sums = metric_values(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        set_metrics(self.model, self.sums)  # Keras has just reset them

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            self.checkpoints.writer.wait()
            raise diverged(step, self.checkpoints)
        now = self._now(step)
        steps, seconds, waited, read, busy = (one - other for one, other in zip(now, self.last, strict=True))
        self.last = now
        optimizer, curve = inner_optimizer(self.model), self.model.loss_curve
        rates = {name: _scalar(getattr(optimizer, name)) for name in OF_OPTIMIZER if hasattr(optimizer, name)}
        speed = {"images_per_second": steps * self.batch / seconds, "input_wait": waited / steps}
        if read and busy:
            speed["input_images_per_second"] = read / busy
        by_level = {} if curve is None else curve.means()
        memory = accelerator_memory()
        used = {} if memory is None else {MEMORY: memory}
        self.journal.write(step, {**rates, **speed, **used, **logs, **by_level})
        self.model.reset_metrics()

    def _now(self, step: int) -> tuple[float, ...]:
        """The step, the time, the time spent on waiting for batches, the images read, and the time of reading."""
        return step, time.perf_counter(), self.data.waited, *self.meter.now()


class Validate(StepCallback):
    """Measures the validation loss, always with the same noise, and with the EMA weights if there are any.

    The loss is the mean over all images, for any number of devices. A signal ends it after the current batch, and then
    there is no loss.

    Args:
        start, total, every: See `StepCallback`.
        journal: The journal that gets the losses.
        folder: The folder of the journal of worker 0, which says whether a step has been validated.
        data: The validation images.
        devices: The devices that share a batch.
        signals: The signals that end the training.
    """

    def __init__(
        self,
        start: int,
        total: int,
        every: int,
        journal: Journal,
        folder: Path,
        data: Loader,
        devices: Distribution,
        signals: StopSignals,
    ) -> None:
        super().__init__(start, total, every)
        self.journal, self.folder, self.data, self.devices, self.signals = journal, folder, data, devices, signals

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        batches = Watched(self.data.once(self.devices.replicas), self.data.several_shapes)
        options = {"steps": len(self.data), "callbacks": [_StopEvaluating(self.signals)], "verbose": 0}
        with kept_metrics(self.model), fixed_noise(self.model), averaged_weights(self.model):
            values = self.model.evaluate(self.devices.feed(batches), return_dict=True, **options)
        if self.signals.received:
            return
        batches.raise_failure(len(self.data))
        self.journal.write(step, {f"val_{name}": _scalar(value) for name, value in values.items()})

    def missing(self, step: int) -> Sequence[Callable[[], None]]:
        rows = read_rows(self.folder / self.journal.path.name)
        done = any(int(row["step"]) == step and row["val_loss"] for row in rows)
        return () if done else [partial(self.at_step, step, {})]


class _StopEvaluating(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends Keras's `evaluate` after the batch in which a signal is received."""

    def __init__(self, signals: StopSignals) -> None:
        super().__init__()
        self.signals = signals

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.signals.share()
        if self.signals.received:
            self.model.stop_evaluating = True


class SaveCheckpoint(StepCallback):
    """Writes checkpoints, also on Ctrl-C or SIGTERM, which end the training after the current step, and after an error.

    The training goes on while a checkpoint is written. If that fails, the next step ends with the error.

    Args:
        start, total, every: See `StepCallback`.
        checkpoints: The checkpoints.
        data: The training batches.
        signals: The signals that end the training.
        before: Steps between two calls of other work that may take long, such as sample grids. A temporary checkpoint
            is written before it, because a process that is told to end may have little time. The training waits for a
            checkpoint that such work follows. 0: it is never called.
    """

    def __init__(
        self,
        start: int,
        total: int,
        every: int,
        checkpoints: Checkpoints,
        data: Watched,
        signals: StopSignals,
        before: Sequence[int] = (),
    ) -> None:
        super().__init__(start, total, every)
        self.checkpoints, self.data, self.signals = checkpoints, data, signals
        self.before = [number for number in before if number]

    def on_train_begin(self, logs: Any = None) -> None:
        self.signals.listen()

    def on_train_end(self, logs: Any = None) -> None:
        self.signals.ignore()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.start + batch + 1
        self.checkpoints.writer.check()
        follows = any(step % number == 0 or step == self.total for number in self.before)
        if self.signals.received and step < self.total:
            self.model.stop_training = True
            self.synchronize()
            self.at_step(step, {})
        elif step % self.every and step < self.total and follows:
            self.synchronize()
            self.checkpoints.save(step, self.model, temporary=True)
        else:
            super().on_train_batch_end(batch, logs)
        if follows:
            self.checkpoints.writer.wait()
        if step < self.total:
            self.data.raise_failure(batch + 1)

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        self.checkpoints.save(step, self.model)

    def save_at(self, step: int) -> None:
        """Writes a checkpoint of the last completed step, unless it exists, and waits until it is written."""
        self.checkpoints.writer.wait()
        if step > self.start and step not in self.checkpoints.steps():
            self.synchronize()
            self.at_step(step, {})
            self.checkpoints.writer.wait()


class Evaluate(StepCallback):
    """Scores the model with the EMA weights if there are any, or else with the trained weights; not after a signal.

    Args:
        start, total, every: See `StepCallback`.
        evaluate: `scores`, or a function that calls it in a suitable place: see `Distribution.alone`.
        scores: The scores, which know the steps that have some.
        journal: The journal that gets the scores.
        signals: The signals that end the training.
    """

    def __init__(
        self,
        start: int,
        total: int,
        every: int,
        evaluate: Callable[[int, Journal], None],
        scores: StepScores,
        journal: Journal,
        signals: StopSignals,
    ) -> None:
        super().__init__(start, total, every)
        self.evaluate, self.scores, self.journal, self.signals = evaluate, scores, journal, signals

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        if self.signals.received:
            return
        with averaged_weights(self.model):
            self.evaluate(step, self.journal)

    def missing(self, step: int) -> Sequence[Callable[[], None]]:
        return () if self.scores.has(step) else [partial(self.at_step, step, {})]


class RenderSamples(StepCallback):
    """Generates images of the same prompts from the same noise, with the trained weights and with their EMA.

    It generates nothing more after a signal.

    Args:
        start, total, every: See `StepCallback`.
        render: `sheets`, or a function that calls it in a suitable place: see `Distribution.alone`. If there is an
            EMA, the sheet with the trained weights has the suffix "-raw".
        sheets: The sheets, which know those that exist.
        journal: The journal that gets the sheets.
        signals: The signals that end the training.
    """

    def __init__(
        self,
        start: int,
        total: int,
        every: int,
        render: Callable[[int, str, Journal], None],
        sheets: Sheets,
        journal: Journal,
        signals: StopSignals,
    ) -> None:
        super().__init__(start, total, every)
        self.render, self.sheets, self.journal, self.signals = render, sheets, journal, signals

    @property
    def suffixes(self) -> list[str]:
        return ["", "-raw"] if weight_averages(self.model) else [""]

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        for suffix in self.suffixes:
            self._render(step, suffix)

    def missing(self, step: int) -> Sequence[Callable[[], None]]:
        return [partial(self._render, step, suffix) for suffix in self.suffixes if not self.sheets.has(step, suffix)]

    def _render(self, step: int, suffix: str) -> None:
        if self.signals.received:
            return
        with contextlib.nullcontext() if suffix else averaged_weights(self.model):
            self.render(step, suffix, self.journal)


def _scalar(value: Any) -> float:
    return float(np.asarray(keras.ops.convert_to_numpy(value)).reshape(-1)[0])
