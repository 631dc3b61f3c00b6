"""What the trainings of one run have in common: the devices, and who is told how they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgen.config import FitConfig, RunConfig
from kgen.errors import RunInterruptedError
from kgen.pipeline.loss_model import LossModel
from kgen.runs.inputs import Inputs
from kgen.training.distribution import Distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import Journal, Listener

Log = Callable[[str], None]
OnMetrics = Callable[[str, int], Listener]
Render = Callable[[int, str, Journal], None]


@dataclass(frozen=True)
class Trainer:
    """Trains the models of a run, one after the other, each in a folder of its own.

    Args:
        log: Gets a line about each thing that begins.
        on_metrics: Is called with the name and the number of steps of each training that begins. What it returns is
            called with the step and the values of each row of that training's journal.
    """

    config: RunConfig
    distribution: Distribution
    log: Log
    on_metrics: OnMetrics | None = None

    def train(
        self, model: LossModel, fit: FitConfig, folder: Path, inputs: Inputs, render: Render, *, decoder: bool = False
    ) -> Progress:
        """Trains a model, or goes on with its training.

        Args:
            folder: Gets checkpoints, journal and TensorBoard's files.
            render: Called with a step, the suffix of a file's name and the journal, to render sample images.
            decoder: Whether this is the training of the decoder, before that of the pipeline.

        Raises:
            RunInterruptedError: the user pressed Ctrl-C; the same command goes on.
        """
        name = "decoder" if decoder else "training"
        distribution, alone = self.distribution, self.distribution.workers == 1
        with distribution.scope():
            compile_model(model, fit)
        progress = train(
            model,
            fit,
            folder,
            data=inputs.loader("train", fit.batch_size, distribution.worker, distribution.workers),
            validation=inputs.validation_loader(fit.batch_size) if alone else None,
            distribution=distribution,
            seed=self.config.seed,
            sample_every=self.config.sample.every,
            render=render if alone else None,
            listeners=[] if self.on_metrics is None else [self.on_metrics(name, fit.steps)],
        )
        if progress.interrupted:
            whose = "the decoder's " if decoder else ""
            raise RunInterruptedError(
                f"stopped at {whose}step {progress.step} of {fit.steps}; a checkpoint is saved. "
                "Give the same command again to go on"
            )
        return progress


def count_weights(model: LossModel) -> int:
    """How many numbers a training changes."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
