"""Dropout that differs on every replica."""

from __future__ import annotations

from typing import Any

import keras

from kgen.random import SeedGenerator

Tensor = Any


class Dropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout (Srivastava et al. 2014) with a different mask on every replica, in contrast to Keras's layer.

    Args:
        rate: Probability, in [0, 1), that a number becomes 0 in training. The others are divided by ``1 - rate``.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the dropout rate must be in [0, 1), not {rate}")
        self.rate = rate
        if rate > 0.0:
            self.seed_generator = SeedGenerator()

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        pass

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if not training or self.rate == 0.0:
            return x
        return keras.random.dropout(x, self.rate, seed=self.seed_generator)
