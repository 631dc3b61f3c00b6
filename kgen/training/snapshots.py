"""Snapshots of the averages of a training, and the average of any width that is made of them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kgen.backend.attributes import kept_trainable
from kgen.config import FitConfig, RunConfig
from kgen.config.sections import MAX_STD, PowerEmaConfig
from kgen.errors import ConfigError, RunError
from kgen.parts.trained import select_trained
from kgen.pipeline.loading import load
from kgen.pipeline.loss_model import LossModel
from kgen.pipeline.model import Pipeline
from kgen.plugins.hookspecs import API
from kgen.storage.background import BackgroundWriter
from kgen.storage.checkpoints import checkpoint_file, checkpoint_steps, delete_checkpoint, delete_unfinished
from kgen.storage.paths import weight_paths
from kgen.storage.shards import Shards
from kgen.storage.weights import Arrays, Variables, read_arrays
from kgen.training.averages import inner_optimizer
from kgen.training.callbacks import StepCallback
from kgen.training.optimizers.power_average import combination

FOLDER = "ema"
"""The folder of the snapshots in a run."""


class Snapshots:
    """The snapshots of a training, in a folder of files like those of checkpoints.

    A file has every kept average of every trained weight, under its width and the path of the weight:
    `0.05/generator/model/out/kernel`.

    Args:
        folder: The folder.
        stds: The widths of the averages, in the order of the optimizer.
        keep: Number of snapshots to keep, of which the oldest are deleted; None: all are kept.
        writer: Writes the files, while the training goes on.
        worker, workers: Index of this process, and number of processes: see `Checkpoints`.
    """

    def __init__(
        self,
        folder: Path,
        stds: Sequence[float],
        keep: int | None = None,
        writer: BackgroundWriter | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.folder, self.stds, self.keep = folder, tuple(stds), keep
        self.writer = BackgroundWriter() if writer is None else writer
        self.worker, self.workers = worker, workers

    def save(self, step: int, model: LossModel) -> None:
        """Copies the averages. The writer then writes a snapshot atomically, and deletes the oldest ones."""
        self.writer.begin(step)
        paths = weight_paths(model, model.trainable_variables)
        index = {id(weight): number for number, weight in enumerate(model.trainable_variables)}
        found = {
            f"{std:g}/{path}": averages[index[id(weight)]]
            for std, averages in zip(self.stds, inner_optimizer(model).kept_averages, strict=True)
            for path, weight in paths.items()
        }
        copies = Shards.copy(found, self.worker, self.workers)
        self.writer.submit(lambda: self._write(step, copies))

    def _write(self, step: int, averages: Shards) -> None:
        if averages.arrays:
            averages.save(checkpoint_file(self.folder, step), {"step": str(step), "api": str(API)})
        for old in checkpoint_steps(self.folder)[: -self.keep] if self.keep else ():
            delete_checkpoint(self.folder, old)

    def average(self, weights: Variables, std: float, step: int | None = None) -> tuple[Arrays, float]:
        """The average of any width.

        Args:
            weights: The trained weights by path.
            std: The width, in (0, `MAX_STD`].
            step: The step up to which the weights are averaged; None: that of the newest snapshot.

        Returns:
            The averages by path, and the error of the profile: see `combination`.

        Raises:
            RunError: there is no snapshot of a step up to `step`, or one is damaged or of another model.
        """
        steps = checkpoint_steps(self.folder)
        last = step or max(steps, default=0)
        used = [each for each in steps if each <= last]
        if not used or last > steps[-1]:
            there = f"has snapshots of steps {steps[0]} to {steps[-1]}" if steps else "has no snapshots"
            raise RunError(f"{self.folder} {there}, and none for an average of the steps up to {last}")
        stored = [(each, width) for each in used for width in self.stds]
        factors, error = combination([each for each, _ in stored], [width for _, width in stored], last, std)
        total = {path: np.zeros(tuple(weight.shape), np.float64) for path, weight in weights.items()}
        for each in used:
            arrays, _ = read_arrays(file := checkpoint_file(self.folder, each))
            for (_, width), factor in (pair for pair in zip(stored, factors, strict=True) if pair[0][0] == each):
                for path, array in total.items():
                    name = f"{width:g}/{path}"
                    if name not in arrays or arrays[name].shape != array.shape:
                        raise RunError(f"{file} was written for another model than the run's: it differs in {name}")
                    array += factor * arrays[name].astype(np.float64)
        return {path: array.astype(np.float32) for path, array in total.items()}, error

    def drop_after(self, step: int) -> None:
        """Deletes the snapshots of later steps, from which the training did not continue."""
        if self.worker == 0:
            for later in checkpoint_steps(self.folder):
                if later > step:
                    delete_checkpoint(self.folder, later)
            delete_unfinished(self.folder, step)


class SaveSnapshots(StepCallback):
    """Writes snapshots. It must be called before the checkpoint of the same step, which no snapshot may lack."""

    def __init__(self, start: int, total: int, every: int, snapshots: Snapshots) -> None:
        super().__init__(start, total, every)
        self.snapshots = snapshots
        snapshots.drop_after(start)

    def at_step(self, step: int, logs: dict[str, float]) -> None:
        self.snapshots.save(step, self.model)

    def save_at(self, step: int) -> None:
        """Writes a snapshot of the last completed step."""
        if step > self.start:
            self.synchronize()
            self.at_step(step, {})


def save_snapshots(
    fit: FitConfig, folder: Path, start: int, writer: BackgroundWriter, worker: int = 0, workers: int = 1
) -> SaveSnapshots | None:
    """The callback that writes the snapshots of a training; None if it keeps none.

    Args:
        fit: The settings of the training.
        folder: Its directory.
        start: The step at which this process began.
        writer: Writes the files.
        worker, workers: Index of this process, and number of processes.
    """
    if not isinstance(fit.ema, PowerEmaConfig):
        return None
    snapshots = Snapshots(folder / FOLDER, fit.ema.std, fit.ema.keep, writer, worker, workers)
    return SaveSnapshots(start, fit.steps, fit.ema.every or fit.checkpoint_every, snapshots)


def average_after(run: str | Path, std: float, step: int | None = None) -> tuple[Pipeline, float]:
    """Makes the average of any width of a finished run, as if it had been kept during the training.

    Args:
        run: A run whose `fit.ema` keeps snapshots.
        std: The width, in (0, `MAX_STD`].
        step: The step up to which the weights are averaged; None: that of the newest snapshot.

    Returns:
        The pipeline with the averaged weights, and the error of the profile: see `combination`.

    Raises:
        ConfigError: the width is outside of its range.
        RunError: the run is not finished or keeps no snapshots; or see `Snapshots.average`.
    """
    if not 0 < std <= MAX_STD:
        raise ConfigError(f"the width of an average must be above 0 and at most {MAX_STD}, not {std}")
    run = Path(run)
    fit = RunConfig.load(run / "config.yaml").fit
    if not isinstance(fit.ema, PowerEmaConfig):
        raise RunError(
            f"{run} has kept no snapshots of averages: train with two of them, as in 'ema: {{std: [0.05, 0.1]}}' of fit"
        )
    pipeline = load(run)
    with kept_trainable(pipeline):
        select_trained(pipeline, fit)
        weights = weight_paths(pipeline, pipeline.trainable_variables)
    averages, error = Snapshots(run / FOLDER, fit.ema.std).average(weights, std, step)
    for path, weight in weights.items():
        weight.assign(averages[path])
    return pipeline, error
