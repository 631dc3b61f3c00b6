"""The composition of bijections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


class Chain(Bijection):
    """A composition of bijections, whose log-determinants add up (Dinh et al. 2017, section 3.5).

    Args:
        steps: Bijections in the order from data to noise.
    """

    def __init__(self, steps: Sequence[Bijection], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = list(steps)

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        for step in self.steps:
            step.build(x_shape, condition_shape)
            x_shape = step.compute_output_shape(x_shape)

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        for step in self.steps:
            x_shape = step.compute_output_shape(x_shape)
        return x_shape

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        total = 0.0
        for step in self.steps:
            x, log_det = step(x, condition)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        for step in reversed(self.steps):
            y = step.inverse(y, condition)
        return y

    def measure(self, x: Tensor, condition: Condition, statistics: list[Tensor]) -> Tensor:
        for step in self.steps:
            x = step.measure(x, condition, statistics)
        return x

    def statistics_variables(self) -> list[keras.Variable]:
        return [variable for step in self.steps for variable in step.statistics_variables()]
