"""Sinusoidal embeddings of numbers and positions."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


def sinusoidal(x: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Embeds real numbers as cosines, then sines, with periods from 2 pi to 2 pi `max_period` (Ho et al. 2020).

    Args:
        x: (B,), with a range of about 1 to 1000.
        dim: Number of features, which must be even.
        max_period: The longest period, in units of 2 pi.

    Returns:
        (B, dim) float32.
    """
    angles = ops.cast(x, "float32")[:, None] * ops.convert_to_tensor(_frequencies(dim, max_period))  # (B, dim/2)
    return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)


def sequence_positions(length: int, dim: int) -> np.ndarray:
    """Position embeddings of a sequence (Vaswani et al. 2017, section 3.5): (length, dim) float32, with even `dim`."""
    return _waves(np.arange(length, dtype=np.float32), dim)


def grid_positions(height: int, width: int, dim: int, spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Position embeddings of a grid, row by row: half of the features for the column, half for the row (MAE, He 2022).

    Args:
        height, width: Size of the grid.
        dim: Number of features, a multiple of 4.
        spacing: Distances between two rows, and between two columns.

    Returns:
        (height * width, dim) float32.
    """
    if dim % 4:
        raise ValueError(f"positions on a grid need a width that is a multiple of 4, not {dim}")
    rows, columns = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    vertical, horizontal = spacing
    return np.concatenate([_waves(columns * horizontal, dim // 2), _waves(rows * vertical, dim // 2)], axis=1)


def _waves(positions: np.ndarray, dim: int) -> np.ndarray:
    angles = positions[:, None] * _frequencies(dim, 10_000.0)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _frequencies(dim: int, max_period: float) -> np.ndarray:
    if dim < 2 or dim % 2:
        raise ValueError(f"sines and cosines need an even number of features, not {dim}")
    return np.exp(-math.log(max_period) * np.arange(dim // 2, dtype=np.float32) / (dim // 2)).astype(np.float32)


class NoiseEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Embeds the noise level and the pooled text, for all blocks of a network.

    It computes ``silu(MLP(sinusoidal(noise_level)) + MLP(pooled))``.

    Args:
        features: Number of sines and cosines, which must be even.
        width: Width of the result, and of the hidden layers.
    """

    def __init__(self, features: int, width: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # bfloat16 cannot represent a noise level of 999
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
        """Maps (B,) and (B, P) to (B, width)."""
        level = self.level_out(self.level_in(sinusoidal(noise_level, self.features)))
        return ops.silu(level + self.pooled_out(self.pooled_in(pooled)))
