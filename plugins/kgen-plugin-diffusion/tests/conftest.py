from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest


class Compiled(keras.Model):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(autocast=False)
        self.function = function
        self.built = True

    def call(self, inputs: dict[str, Any]) -> Any:
        return self.function(**inputs)


@pytest.fixture
def compiled() -> Callable[..., np.ndarray]:
    """Runs a function of arrays in one compiled program by `predict`, as `Pipeline.generate` does."""

    def run(function: Callable[..., Any], **inputs: np.ndarray) -> np.ndarray:
        rows = len(next(iter(inputs.values())))
        return np.asarray(Compiled(function).predict(inputs, batch_size=rows, verbose=0))

    return run
