"""Tries what a training names, before it begins: its optimizer, its callbacks and its loggers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.config import ComponentConfig, FitConfig
from kgen.contracts.logger import Logger
from kgen.errors import PluginError
from kgen.pipeline.assembly import find
from kgen.plugins.faults import component_errors
from kgen.training.loggers import make_logger
from kgen.training.optimizers.averaging import make_optimizer
from kgen.training.own_callbacks import make_callbacks

SMALL: Mapping[str, tuple[int, ...]] = {"kernel": (2, 3), "bias": (3,)}
"""Shapes of the weights that are stepped, by name."""


def try_fit(fit: FitConfig, weights: Sequence[Any]) -> None:
    """Makes the optimizer and the callbacks of a `fit` section. The optimizer makes two steps of two small weights.

    Args:
        weights: What will be trained; the optimizer's state is made for them, and they are not changed.

    Raises:
        ConfigError: the options do not suit the weights. PluginError: the optimizer breaks its contract, or something
            cannot be made.
    """
    component, _ = find("optimizer", fit.optimizer.choice)
    optimizer = make_optimizer(fit.optimizer.choice, fit.learning_rate, clip_norm=fit.clip_norm, average=0.5)
    small = [keras.Variable(np.ones(shape, np.float32), name=name) for name, shape in SMALL.items()]
    with component_errors(component.load()):
        optimizer.build([*small, *weights])
        for _ in range(2):
            optimizer.apply([keras.ops.ones(weight.shape) for weight in small], small)
    for weight, average in zip(small, optimizer.averages, strict=False):
        stepped, followed = (keras.ops.convert_to_numpy(variable) for variable in (weight, average))
        if not np.isfinite(stepped).all():
            raise PluginError(f"{component}: a step made a weight of 1, with a gradient of 1, infinite or NaN")
        if (stepped != 1).any() and (followed == 1).all():
            raise PluginError(f"{component}: it changes weights without its update_step, so no average can follow them")
    with tempfile.TemporaryDirectory() as folder:
        make_callbacks(fit.callbacks, Path(folder))


def try_loggers(
    choices: Sequence[ComponentConfig], config: Mapping[str, Any], losses: Mapping[str, np.ndarray]
) -> None:
    """Tells each logger of a run that ends after one row, in another directory; one that is remote, only checks.

    Args:
        config: Of the run, as plain data.
        losses: Of a few examples, by name.

    Raises:
        KgenError: one lacks something, or fails.
    """
    row = {name: float(value.mean()) for name, value in losses.items()}
    for choice in choices:
        with tempfile.TemporaryDirectory() as folder:
            logger = make_logger(choice.choice, Path(folder))
            with component_errors(logger):
                logger.check()
                if not logger.remote:
                    _tell(logger, config, row)


def _tell(logger: Logger, config: Mapping[str, Any], row: Mapping[str, float]) -> None:
    logger.begin(config)
    logger.resume("generator", 0)
    logger.log("generator", 1, row)
    logger.image("generator", 1, "samples", np.zeros((2, 4, 3), np.uint8))
    logger.end({"train": row})
