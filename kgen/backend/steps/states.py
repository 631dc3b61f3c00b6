"""The variables that a training step changes besides the weights, when its batch is divided into micro-batches.

These are the states of random generators, and what layers keep from step to step: running means, a codebook, a count of
steps. One step must change them once. Every micro-batch therefore begins with their values from before the step. The
step then adds the mean of the changes. A count of steps grows by 1, and a running mean of means over the batch changes
as with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kgen.backend.steps.micro_batch import MicroBatch

Tensor = Any

SEED_STATE = "seed_generator_state"
"""The name that Keras gives to the state of every `SeedGenerator`."""


def state_variables(model: keras.Model) -> list[Any]:
    """The states of all random generators and of all layers that are not frozen; frozen layers change nothing."""
    layers = [layer for layer in model._flatten_layers() if layer.trainable]
    states = [variable for variable in model.variables if variable.name == SEED_STATE]
    states += [variable for layer in layers for variable in layer._non_trainable_variables]
    return [variable for variable in {id(v): v for v in states}.values() if _is_number(variable.dtype)]


def _is_number(dtype: Any) -> bool:
    kind = keras.backend.standardize_dtype(dtype)
    return bool(keras.backend.is_float_dtype(kind) or keras.backend.is_int_dtype(kind))


def first_value(variable: Any, value: Tensor, micro_batch: MicroBatch) -> Tensor:
    """The value that a state has when a micro-batch begins, given its value from before the step."""
    return ops.add(value, micro_batch.seed_offset(value.dtype)) if variable.name == SEED_STATE else value


def changed_value(value: Tensor, changes: Tensor, count: int) -> Tensor:
    """The value after the step, given the value before it and the sum of the changes by `count` micro-batches."""
    integer = keras.backend.is_int_dtype(keras.backend.standardize_dtype(value.dtype))
    mean = ops.floor_divide(changes, count) if integer else ops.divide(changes, count)
    return ops.add(value, ops.cast(mean, value.dtype))


class Changes:
    """Measures the changes of variables by a micro-batch, and undoes them.

    Args:
        variables: The state variables.
        micro_batch: The micro-batch, which begins now.
    """

    def __init__(self, variables: Sequence[Any], micro_batch: MicroBatch) -> None:
        self.variables = variables
        self.before = [ops.copy(variable) for variable in variables]
        self.first = [first_value(v, value, micro_batch) for v, value in zip(variables, self.before, strict=True)]
        for variable, value in zip(variables, self.first, strict=True):
            variable.assign(value)

    def undo(self) -> list[Tensor]:
        """Returns the changes, after the micro-batch, and restores the values from before it."""
        found = [ops.subtract(v, value) for v, value in zip(self.variables, self.first, strict=True)]
        for variable, value in zip(self.variables, self.before, strict=True):
            variable.assign(value)
        return found
