"""What every block of a network learns about the noise level and the text as a whole."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.nn import sinusoidal

Tensor = Any


class NoiseEmbedding(keras.layers.Layer):
    """``MLP(sinusoidal(noise_level)) + MLP(pooled)``, followed by SiLU (every user begins with it).

    Args:
        features: Number of sines and cosines; even.
        width: Of the result, and of the hidden layers.
    """

    def __init__(self, features: int, width: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # a noise level of 999 has no place in bfloat16
        self.features = features
        self.width = width
        self.level_in = keras.layers.Dense(width, activation="silu", dtype=self.dtype_policy, name="level_in")
        self.level_out = keras.layers.Dense(width, dtype=self.dtype_policy, name="level_out")
        self.pooled_in = keras.layers.Dense(width, activation="silu", dtype=self.dtype_policy, name="pooled_in")
        self.pooled_out = keras.layers.Dense(width, dtype=self.dtype_policy, name="pooled_out")

    def build(self, noise_level_shape: tuple[int | None, ...], pooled_shape: tuple[int | None, ...]) -> None:
        self.level_in.build((None, self.features))
        self.level_out.build((None, self.width))
        self.pooled_in.build(pooled_shape)
        self.pooled_out.build((None, self.width))

    def call(self, noise_level: Tensor, pooled: Tensor) -> Tensor:
        """(B,), (B, P) -> (B, width)."""
        level = self.level_out(self.level_in(sinusoidal(noise_level, self.features)))
        return ops.silu(level + self.pooled_out(self.pooled_in(pooled)))
