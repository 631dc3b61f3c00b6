"""A gain and a bias per channel, with data-dependent initialization."""

from __future__ import annotations

from collections.abc import Mapping

import keras
from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor

SMALLEST_VARIANCE = 1e-6
"""Variance below which a channel counts as constant and keeps its scale."""


class ActNorm(Bijection):
    """``y = (x - mean) / deviation * exp(log_gain) + bias`` per channel (Kingma and Dhariwal 2018, section 3.1).

    `mean` and `deviation` are those of the first training batch. They are not trained. They are 0 and 1 until they are
    assigned the statistics of `measure`, so a loss never mixes the examples of its batch. `log_gain` and `bias` are
    trained and start at 0. A constant channel is not divided by its deviation, because several `ActNorm`s in a row
    would amplify its rounding errors.
    """

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        shape = (x_shape[-1],)
        fixed = {"trainable": False, "aggregation": "mean"}  # replicas share the mean of their statistics
        self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", **fixed)
        self.deviation = self.add_weight(name="deviation", shape=shape, initializer="ones", **fixed)
        self.log_gain = self.add_weight(name="log_gain", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        # copies, because PyTorch computes the gradient from these values after the variables have been assigned
        mean, deviation = ops.copy(self.mean), ops.copy(self.deviation)
        factor = ops.exp(self.log_gain) / deviation  # (C,)
        log_det = x.shape[1] * x.shape[2] * ops.sum(self.log_gain - ops.log(deviation))
        return x * factor + (self.bias - mean * factor), log_det

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        return (y - self.bias) * ops.exp(-self.log_gain) * self.deviation + self.mean

    def measure(self, x: Tensor, condition: Condition, statistics: list[Tensor]) -> Tensor:
        mean = ops.mean(x, axis=(0, 1, 2))  # (C,)
        variance = ops.mean(ops.square(x - mean), axis=(0, 1, 2))
        deviation = ops.where(variance < SMALLEST_VARIANCE, 1.0, ops.sqrt(variance))
        statistics += [mean, deviation]
        return (x - mean) / deviation * ops.exp(self.log_gain) + self.bias

    def statistics_variables(self) -> list[keras.Variable]:
        return [self.mean, self.deviation]
