"""Looking at a model with its averaged weights, or with frozen randomness, while it trains; and its running losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from kgen.backend.variables import copied, kept_variables
from kgen.pipeline.loss_model import LossModel


@contextmanager
def averaged_weights(model: LossModel) -> Iterator[bool]:
    """Puts the optimizer's running averages in place of the weights; gives False where it keeps none."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # inside of a LossScaleOptimizer
    averages = getattr(optimizer, "averages", [])
    if not averages:
        yield False
        return
    weights = model.trainable_variables
    with kept_variables(weights):
        for variable, average in zip(weights, averages, strict=True):
            variable.assign(copied(average))
        yield True


@contextmanager
def fixed_noise(model: LossModel, seed: int = 0) -> Iterator[None]:
    """Sets every random state to a fixed one, so that a loss can be compared over time; then puts them back."""
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    with kept_variables(states):
        for number, state in enumerate(states):
            state.assign(np.array([seed, number], dtype=keras.backend.standardize_dtype(state.dtype)))
        yield


@contextmanager
def kept_metrics(model: LossModel) -> Iterator[None]:
    """Keeps the training's running losses as they are, whatever is measured inside the block."""
    values = metric_values(model)
    try:
        yield
    finally:
        set_metrics(model, values)


def metric_values(model: LossModel) -> list[np.ndarray]:
    """The sums and counts behind the running losses."""
    return [copied(variable) for variable in model.metrics_variables]


def set_metrics(model: LossModel, values: list[np.ndarray]) -> None:
    """Sets them to what `metric_values` gave."""
    for variable, value in zip(model.metrics_variables, values, strict=True):
        variable.assign(value)
