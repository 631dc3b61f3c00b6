"""Runs `fit` from the newest checkpoint to the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.backend.stream import Watched
from kgen.config import FitConfig
from kgen.data.loader import Loader
from kgen.errors import DataError, RunError
from kgen.pipeline.loss_model import LossModel
from kgen.training.callbacks import Log, Position, RenderSamples, SaveCheckpoint, Validate
from kgen.training.checkpoint import Checkpoints
from kgen.training.distribution import Distribution
from kgen.training.journal import Journal, Listener
from kgen.training.optimizer import AveragingAdamW, WarmUp


@dataclass(frozen=True)
class Progress:
    """Where a training stands: its last step, whether the user stopped it, seconds over all processes."""

    step: int
    interrupted: bool
    seconds: float


def compile_model(model: LossModel, fit: FitConfig) -> None:
    """Compiles with the optimizer that the options ask for."""
    total = fit.steps if fit.schedule == "cosine" else None
    optimizer = AveragingAdamW(
        WarmUp(fit.learning_rate, fit.warmup_steps, total),
        weight_decay=fit.weight_decay,
        beta_1=fit.beta_1,
        beta_2=fit.beta_2,
        clip_norm=fit.clip_norm,
        average=fit.ema,
    )
    model.compile(optimizer=optimizer)


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
    render: Callable[[int, str, Journal], None] | None = None,
    listeners: Sequence[Listener] = (),
) -> Progress:
    """Trains a compiled model, or continues a training that was interrupted.

    Args:
        folder: The run directory; gets `checkpoints/`, `metrics.csv` and `tensorboard/`.
        data, validation: The training and the validation data.
        render: Function that generates sample images, given a step, a suffix of a file name, and the journal.
        listeners: Are told of every row of the journal.

    Raises:
        RunError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    distribution.check_batch(fit.batch_size)
    checkpoints = Checkpoints(folder / "checkpoints", fit.keep)
    start = checkpoints.restore(model, fit.steps)

    def tell(step: int, values: Any) -> None:
        for listener in listeners:
            listener(step, values)

    columns = ["learning_rate", "images_per_second", *model.trackers, *(f"val_{name}" for name in model.trackers)]
    chief = distribution.is_chief
    journal = Journal(folder if chief else folder / f"worker-{distribution.worker}", columns, start, tell)
    batches = Watched(data.training(start=start, seed=seed))
    position = Position(start)
    saver = SaveCheckpoint(start, fit.steps, fit.checkpoint_every, checkpoints, batches, chief)
    callbacks: list[Any] = [position, Log(start, fit.steps, fit.log_every, journal, checkpoints, fit.batch_size)]
    if validation is not None:
        replicas = distribution.replicas
        callbacks.append(Validate(start, fit.steps, fit.validate_every, journal, validation, replicas))
    callbacks.append(saver)
    if render is not None:
        callbacks.append(
            RenderSamples(start, fit.steps, sample_every, lambda step, suffix: render(step, suffix, journal))
        )
    with contextlib.ExitStack() as stack:
        stack.callback(journal.close)
        stack.callback(saver.restore_signals)
        if start < fit.steps:
            steps = fit.steps - start
            with _saved_after_error(saver, position):
                feed = distribution.feed(batches)
                model.fit(feed, steps_per_epoch=steps, epochs=1, callbacks=callbacks, verbose=0, shuffle=False)
        step = saver.interrupted_at or fit.steps
        return Progress(step, saver.interrupted_at is not None, journal.seconds)


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
            saver.save_after_error(step)
        except Exception as second:
            error.add_note(f"No checkpoint could be saved after that: {second}")
            raise error from None
        if isinstance(error, DataError) and step:
            raise DataError(
                f"{error}\nThe checkpoint of step {step} is saved: fix this, and continue with the same command"
            ) from error
        raise
