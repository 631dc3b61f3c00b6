"""Values of variables: copies of them, and putting them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


def copied(variable: Any) -> np.ndarray:
    """A copy of a variable's value: on JAX, `numpy()` may be a view of a buffer that the next step gives away."""
    return np.array(keras.ops.convert_to_numpy(variable))


@contextmanager
def kept_variables(variables: Iterable[Any]) -> Iterator[None]:
    """Puts variables back to their values of before, whatever happens to them inside the block."""
    kept = [(variable, copied(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
