"""Temporary changes of a model in training: EMA weights, fixed noise, and saved running losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from kgen.backend.variables import kept_variables, snapshot
from kgen.pipeline.loss_model import LossModel


def inner_optimizer(model: LossModel) -> Any:
    """The optimizer of a model; with loss scaling (float16), the one inside of Keras's LossScaleOptimizer."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def weight_averages(model: LossModel) -> list[Any]:
    """The EMA of each trained weight, in the optimizer; an empty list if there is none."""
    return list(getattr(inner_optimizer(model), "averages", []))


@contextmanager
def averaged_weights(model: LossModel) -> Iterator[None]:
    """Replaces the weights by their EMA in the optimizer, if there is one."""
    averages = weight_averages(model)
    weights = model.trainable_variables if averages else []
    with kept_variables(weights):
        for variable, average in zip(weights, averages, strict=True):
            variable.assign(snapshot(average))
        yield


@contextmanager
def fixed_noise(model: LossModel, seed: int = 0) -> Iterator[None]:
    """Sets all random states to fixed values, so that losses can be compared over time, and restores them."""
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    with kept_variables(states):
        for number, state in enumerate(states):
            state.assign(np.array([seed, number], dtype=keras.backend.standardize_dtype(state.dtype)))
        yield


@contextmanager
def kept_metrics(model: LossModel) -> Iterator[None]:
    """Restores the training's running losses after the block."""
    values = metric_values(model)
    try:
        yield
    finally:
        set_metrics(model, values)


def metric_values(model: LossModel) -> list[Any]:
    """The sums and counts of the running losses."""
    return [snapshot(variable) for variable in model.metrics_variables]


def set_metrics(model: LossModel, values: list[Any]) -> None:
    """Sets the sums and counts to values of `metric_values`."""
    for variable, value in zip(model.metrics_variables, values, strict=True):
        variable.assign(value)
