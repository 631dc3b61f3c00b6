"""Tries the optimizer, the callbacks and the loggers of a training before it begins."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.replicas import on_replicas
from kgen.config import ComponentConfig, FitConfig
from kgen.contracts.logger import Logger
from kgen.errors import PluginError
from kgen.parts.construction import find
from kgen.plugins.faults import component_errors
from kgen.training.loggers import make_logger
from kgen.training.optimizers.averaging import make_optimizer
from kgen.training.own_callbacks import make_callbacks

SMALL: Mapping[str, tuple[int, ...]] = {"kernel": (2, 3), "bias": (3,)}
"""The weights that `try_fit` updates: shapes by name."""


def try_fit(fit: FitConfig, weights: Sequence[Any]) -> None:
    """Creates the optimizer and the callbacks of a `fit` section, and updates two small weights twice.

    Args:
        fit: The section.
        weights: The weights of the model. The optimizer creates its state for them; they do not change.

    Raises:
        ConfigError: an option does not suit the weights. PluginError: the optimizer violates its contract, or a
            component cannot be created.
    """
    component, _ = find("optimizer", fit.optimizer.choice)
    optimizer = make_optimizer(fit.optimizer.choice, fit.learning_rate, clip_norm=fit.clip_norm, average=0.5)
    small = [keras.Variable(np.ones(shape, np.float32), name=name) for name, shape in SMALL.items()]
    with component_errors(component.load()):
        optimizer.build([*small, *weights])
        for _ in range(2):
            on_replicas(lambda: optimizer.apply([keras.ops.ones(weight.shape) for weight in small], small))
    for weight, average in zip(small, optimizer.averages, strict=False):
        stepped, followed = (keras.ops.convert_to_numpy(variable) for variable in (weight, average))
        if not np.isfinite(stepped).all():
            raise PluginError(f"{component}: a weight of 1 with a gradient of 1 became infinite or NaN")
        if (stepped != 1).any() and (followed == 1).all():
            raise PluginError(f"{component}: it changes weights outside of update_step, so kgen cannot average them")
    with tempfile.TemporaryDirectory() as folder:
        make_callbacks(fit.callbacks, Path(folder))


def try_loggers(
    choices: Sequence[ComponentConfig], config: Mapping[str, Any], losses: Mapping[str, np.ndarray]
) -> None:
    """Calls each logger with one row and one image, in a temporary directory; of a remote logger, calls only `check`.

    Args:
        choices: The loggers.
        config: The complete configuration of the run.
        losses: The losses of a few examples, by name.

    Raises:
        KgenError: a logger lacks something, or fails.
    """
    row = {name: float(value.mean()) for name, value in losses.items()}
    for choice in choices:
        with tempfile.TemporaryDirectory() as folder:
            logger = make_logger(choice.choice, Path(folder))
            with component_errors(logger):
                logger.check()
                if not logger.remote:
                    _try(logger, config, row)


def _try(logger: Logger, config: Mapping[str, Any], row: Mapping[str, float]) -> None:
    logger.begin(config)
    logger.resume("generator", 0)
    logger.log("generator", 1, row)
    logger.image("generator", 1, "samples", np.zeros((2, 4, 3), np.uint8))
    logger.end({"train": row})
