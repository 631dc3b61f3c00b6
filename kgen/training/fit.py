"""Runs `fit` from the newest checkpoint to the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kgen.backend.memory import accelerator_memory
from kgen.backend.stream import Watched
from kgen.config import FitConfig
from kgen.contracts.logger import Stage
from kgen.data.loader import Loader
from kgen.errors import ConfigError, DataError, RunError
from kgen.pipeline.loss_model import LossModel
from kgen.storage.background import BackgroundWriter
from kgen.training.callbacks import (
    MEMORY,
    OF_OPTIMIZER,
    SPEED,
    Evaluate,
    Log,
    Position,
    RenderSamples,
    SaveCheckpoint,
    StepCallback,
    Validate,
)
from kgen.training.checkpoint import Checkpoints
from kgen.training.distribution.base import Distribution
from kgen.training.journal import Journal, Listener
from kgen.training.loggers import Loggers
from kgen.training.optimizers.averaging import make_optimizer
from kgen.training.optimizers.warmup import WarmUp
from kgen.training.outputs import Sheets, StepScores
from kgen.training.own_callbacks import OwnCallbacks, make_callbacks
from kgen.training.signals import StopSignals
from kgen.training.snapshots import save_snapshots


@dataclass(frozen=True)
class Progress:
    """The state of a training. If it has not reached `fit.steps` and was not interrupted, a callback ended it.

    Attributes:
        step: The last step.
        interrupted: Whether the user stopped the training.
        seconds: Time spent on training, over all processes of the run.
    """

    step: int
    interrupted: bool
    seconds: float


def compile_model(model: LossModel, fit: FitConfig) -> None:
    """Compiles a model with the optimizer of `fit`. Raises ConfigError if its options do not suit the weights."""
    total = fit.steps if fit.schedule == "cosine" else None
    schedule = WarmUp(fit.learning_rate, fit.warmup_steps, total)
    optimizer = make_optimizer(fit.optimizer.choice, schedule, clip_norm=fit.clip_norm, average=fit.averages)
    model.compile(
        optimizer,
        gradient_accumulation=fit.gradient_accumulation,
        remat=fit.remat,
        steps_per_execution=fit.steps_per_execution,
    )


def compiles(model: LossModel) -> bool:
    """Whether the first training step of a compiled model takes longer than the others, because a program is made."""
    return bool(not model.run_eagerly and (model.jit_compile or keras.backend.backend() != "torch"))


def train(
    model: LossModel,
    fit: FitConfig,
    folder: Path,
    *,
    data: Loader,
    validation: Loader | None,
    distribution: Distribution,
    seed: int,
    sample_every: int = 0,
    sheets: Sheets | None = None,
    evaluate_every: int = 0,
    scores: StepScores | None = None,
    listeners: Sequence[Listener] = (),
    loggers: Loggers | None = None,
    stage: Stage = "generator",
) -> Progress:
    """Trains a compiled model, or continues a training that was interrupted.

    It first does what is missing of the step of the newest checkpoint, such as a sheet of samples.

    Args:
        folder: The directory of the training, in which `checkpoints/` and `metrics.csv` are written.
        data, validation: The training and the validation data. Their workers end with the training.
        sample_every: Steps between two sheets of sample images; 0: there are none.
        sheets: Draws the sheets; None: there are none.
        evaluate_every: Steps between two times at which the model is scored; 0: it is not scored.
        scores: Scores the model; None: it is not scored.
        listeners: Functions that are called with the step and the values of every row of the journal.
        loggers: The loggers, which record every row and image.
        stage: The name of the training, for the loggers.

    Raises:
        ConfigError: the batch size does not suit the devices, or `steps_per_execution` the newest checkpoint.
        RunError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    distribution.check_batch(fit.batch_size, fit.gradient_accumulation)
    worker = distribution.worker, distribution.workers
    checkpoints = Checkpoints(folder / "checkpoints", fit.keep, writer := BackgroundWriter(), *worker)
    start = _restored(checkpoints, model, fit)
    chief = distribution.is_chief
    own_folder = folder if chief else folder / f"worker-{distribution.worker}"
    journal = Journal(own_folder, _columns(model), start, _all_of(listeners), loggers if chief else None, stage)
    batches = Watched(data.training(start=start, seed=seed), data.several_shapes, fit.steps_per_execution)
    signals = StopSignals(distribution.any if distribution.workers > 1 else None)
    position = Position(start, signals)
    outputs: list[StepCallback] = []
    if sheets is not None and (render := distribution.alone(sheets, model)):
        outputs.append(RenderSamples(start, fit.steps, sample_every, render, sheets, journal, signals))
    if scores is not None and (evaluate := distribution.alone(scores, model)):
        outputs.append(Evaluate(start, fit.steps, evaluate_every, evaluate, scores, journal, signals))
    before = [callback.every for callback in outputs]
    saver = SaveCheckpoint(start, fit.steps, fit.checkpoint_every, checkpoints, batches, signals, before)
    own = OwnCallbacks(make_callbacks(fit.callbacks, own_folder), start, fit.steps)
    log = Log(start, fit.steps, fit.log_every, journal, checkpoints, batches, fit.batch_size, data.meter)
    callbacks: list[Any] = [position, own, log]  # the user's own callbacks come before those that save their effects
    if validation is not None:
        callbacks.append(
            Validate(start, fit.steps, fit.validate_every, journal, folder, validation, distribution, signals)
        )
    snapshots = save_snapshots(fit, folder, start, writer, *worker)
    callbacks += [saver, *outputs] if snapshots is None else [snapshots, saver, *outputs]
    with contextlib.ExitStack() as stack:
        stack.callback(signals.ignore)
        stack.callback(data.close)
        stack.enter_context(writer)
        stack.enter_context(distribution.joined(model))
        with _saved_after_error(saver, position):
            _complete(start, model, callbacks, distribution)
            if steps := fit.steps - start:
                feed = distribution.feed(batches)
                model.fit(feed, steps_per_epoch=steps, epochs=1, callbacks=callbacks, verbose=0, shuffle=False)
            writer.wait()
            distribution.wait()
        step = position.step or 0
        if snapshots is not None and step not in checkpoints.steps():
            snapshots.save_at(step)
        saver.save_at(step)  # if a callback ended the training
        return Progress(step, signals.received, journal.seconds)


def _restored(checkpoints: Checkpoints, model: LossModel, fit: FitConfig) -> int:
    """Loads the newest checkpoint, and returns its step. Raises ConfigError if calls of several steps do not fit it."""
    start = checkpoints.restore(model, fit.steps)
    if start % fit.steps_per_execution:
        raise ConfigError(
            f"fit.steps_per_execution: {fit.steps_per_execution} does not divide {start}, the step of the newest "
            "checkpoint, from which the training continues: choose a number that does, such as 1"
        )
    return start


def _complete(step: int, model: LossModel, callbacks: Sequence[Any], distribution: Distribution) -> None:
    """Does what is missing of the step of a checkpoint, because an earlier process ended soon after writing it.

    It has the same results as in that process: the checkpoint has all that they depend on.
    """
    due = [callback for callback in callbacks if isinstance(callback, StepCallback) and step and callback.is_due(step)]
    for callback in due:
        callback.set_model(model)
    distribution.wait()  # until worker 0 has opened its journal
    missing = [do for callback in due for do in callback.missing(step)]
    distribution.wait()  # until all workers know it, so that all do the same
    for do in missing:
        do()


def _all_of(listeners: Sequence[Listener]) -> Listener:
    """A listener that calls the others."""

    def tell(step: int, values: Any) -> None:
        for listener in listeners:
            listener(step, values)

    return tell


def _columns(model: LossModel) -> list[str]:
    """The columns of the journal of a model."""
    by_level = [] if model.loss_curve is None else model.loss_curve.axis.columns()
    memory = [] if accelerator_memory() is None else [MEMORY]
    return [*OF_OPTIMIZER, *SPEED, *memory, *model.trackers, *(f"val_{name}" for name in model.trackers), *by_level]


@contextlib.contextmanager
def _saved_after_error(saver: SaveCheckpoint, position: Position) -> Iterator[None]:
    """Saves the completed steps if an error ends the training, such as a missing file or a failing plugin.

    If the training diverged, or ended within a step, nothing is saved. The previous checkpoint is then the last one.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        step = position.step
        if step is None:
            raise
        try:
            saver.save_at(step)
        except Exception as second:
            error.add_note(f"No checkpoint could be saved after that: {second}")
            raise error from None
        if isinstance(error, DataError) and step:
            raise DataError(
                f"{error}\nThe checkpoint of step {step} is saved: fix this, and continue with the same command"
            ) from error
        raise
