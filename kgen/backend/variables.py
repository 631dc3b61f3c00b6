"""Copies and restores the values of variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


def copied(variable: Any) -> np.ndarray:
    """A copy of a variable's value. (On JAX, `numpy()` may be a view of a buffer that the next step reuses.)"""
    return np.array(keras.ops.convert_to_numpy(variable))


@contextmanager
def kept_variables(variables: Iterable[Any]) -> Iterator[None]:
    """Restores the values of variables after the block."""
    kept = [(variable, copied(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
