"""Copies and restores the values of variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


def copied(variable: Any) -> np.ndarray:
    """A copy of a variable's value in the memory of the host, which no later step changes."""
    on_replicas = keras.backend.backend() == "tensorflow"  # a variable may have a copy on each replica
    value = variable.numpy() if on_replicas else keras.ops.convert_to_numpy(variable.value)
    return np.require(value, requirements=["C", "OWNDATA", "WRITEABLE"])


@contextmanager
def kept_variables(variables: Iterable[Any]) -> Iterator[None]:
    """Restores the values of variables after the block."""
    kept = [(variable, copied(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
