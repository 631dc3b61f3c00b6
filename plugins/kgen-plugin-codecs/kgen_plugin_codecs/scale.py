"""Scaling of latents to unit variance: mean and deviation are measured once, after training, and saved as weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

Tensor = Any
Shape = tuple[int | None, ...]


class Scale(keras.layers.Layer):
    """Scales latents (B, h, w, C) to channels of mean 0 and variance 1, and back. It starts as the identity."""

    def build(self, z_shape: Shape) -> None:
        self.mean = self.add_weight(name="mean", shape=z_shape[-1:], initializer="zeros", trainable=False)
        self.deviation = self.add_weight(name="deviation", shape=z_shape[-1:], initializer="ones", trainable=False)

    def call(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.deviation

    def undo(self, z: Tensor) -> Tensor:
        return z * self.deviation + self.mean

    def measure(self, latents: Iterable[np.ndarray]) -> None:
        """Sets mean and deviation from batches of unscaled latents."""
        mean, deviation = moments(latents)
        self.mean.assign(mean)
        self.deviation.assign(np.maximum(deviation, 1e-6))


def moments(latents: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation (C,) of each channel over batches (B, h, w, C)."""
    count, total, squares = 0, 0.0, 0.0
    for batch in latents:
        rows = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
        count += len(rows)
        total = total + rows.sum(0)
        squares = squares + np.square(rows).sum(0)
    mean = np.asarray(total) / count
    return mean, np.sqrt(np.maximum(np.asarray(squares) / count - np.square(mean), 0.0))
