"""Trains the models of a run, with its devices and its logging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import FitConfig, RunConfig
from kgen.contracts.logger import Stage
from kgen.errors import RunInterruptedError
from kgen.experiments.inputs import Inputs
from kgen.parts.lora import lora_layers
from kgen.pipeline.loss_model import LossModel
from kgen.training.checkpoint import Checkpoints
from kgen.training.distribution.base import Distribution
from kgen.training.fit import Progress, compile_model, compiles, train
from kgen.training.journal import Listener
from kgen.training.loggers import Loggers
from kgen.training.outputs import Sheets, StepScores

Log = Callable[[str], None]
OnMetrics = Callable[[str, int], Listener]


@dataclass(frozen=True)
class Trainer:
    """Trains the models of a run, one after the other, each in a separate folder.

    Args:
        config: The configuration of the run.
        distribution: The devices.
        log: Receives a line at the beginning of each step.
        on_metrics: Called at the beginning of each training, with its name and number of steps. It returns a function
            that is called with the step and the values of each row of the training's journal.
        loggers: Record the rows and images of all trainings.
    """

    config: RunConfig
    distribution: Distribution
    log: Log
    on_metrics: OnMetrics | None = None
    loggers: Loggers = field(default_factory=Loggers)

    def train(
        self,
        model: LossModel,
        fit: FitConfig,
        folder: Path,
        inputs: Inputs,
        sheets: Sheets | None,
        scores: StepScores | None = None,
        *,
        stage: Stage = "generator",
    ) -> Progress:
        """Trains a model, or continues its training.

        Args:
            model: The model.
            fit: The settings of the training.
            folder: The folder of checkpoints and journal.
            inputs: The data.
            sheets: The sheets of sample images; None: no sample images are generated.
            scores: The scores during the training; None: the model is not scored.
            stage: The name of the training; "generator" is that of the pipeline.

        Raises:
            RunInterruptedError: the user pressed Ctrl-C; the same command continues the training.
        """
        name = "training" if stage == "generator" else stage
        distribution = self.distribution
        worker = distribution.worker, distribution.workers
        inputs = replace(inputs, devices=distribution.replicas, log=self.log)
        with distribution.scope():
            compile_model(model, fit)
        if inputs.caches_conditions:  # with the weights that the encoder has in the checkpoint
            Checkpoints(folder / "checkpoints", fit.keep, None, *worker).restore(model, fit.steps)
        data = inputs.loader("train", fit.batch_size, *worker)
        validation = inputs.validation_loader(fit.batch_size, *worker)
        if compiles(model):
            self.log("compiling the first training step, which takes longer than the others")
        progress = train(
            model,
            fit,
            folder,
            data=data,
            validation=validation,
            distribution=distribution,
            seed=self.config.seed,
            sample_every=self.config.sample.every,
            sheets=sheets,
            evaluate_every=self.config.evaluate.every,
            scores=scores,
            listeners=[] if self.on_metrics is None else [self.on_metrics(name, fit.steps)],
            loggers=self.loggers,
            stage=stage,
        )
        whose = "" if stage == "generator" else f"the {stage}'s "
        if progress.interrupted:
            raise RunInterruptedError(
                f"stopped at {whose}step {progress.step} of {fit.steps}; a checkpoint is saved. "
                "Give the same command again to continue"
            )
        if progress.step < fit.steps:
            self.log(f"a callback ended the training at {whose}step {progress.step} of {fit.steps}")
        return progress


def describe_weights(model: LossModel) -> str:
    """Says how many weights are trained, and, with LoRA, which share of all weights that is."""
    trained = {id(variable) for variable in model.trainable_variables}
    weights = [variable for variable in model.training_variables if variable.name != "seed_generator_state"]
    others = [weight for weight in weights if id(weight) not in trained]
    count = f"{_count(model.trainable_variables):,} weights to train"
    if not (layers := lora_layers(model)):
        return count
    return (
        f"{count} ({_mib(model.trainable_variables)}), the LoRA of {len(layers)} dense layers; the {_count(others):,} "
        f"others ({_mib(others)}) are frozen, and checkpoints do not contain them"
    )


def _count(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _mib(variables: Iterable[Any]) -> str:
    size = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)
    return f"{size / 2**20:,.2f} MiB"
