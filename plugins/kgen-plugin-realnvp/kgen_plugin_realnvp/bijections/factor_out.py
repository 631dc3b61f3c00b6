"""The multi-scale architecture: half of the channels are factored out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


class FactorOut(Bijection):
    """Applies `rest` to the first half of the channels, and leaves the second half unchanged.

    The second half becomes noise at this scale (Dinh et al. 2017, section 3.6, equations 13 to 16), and `rest` costs
    only half. Both halves stay in one array, so a flow of several scales is also a `Bijection`.

    Args:
        rest: Bijection that keeps the shape.
    """

    def __init__(self, rest: Bijection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rest = rest

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        self.rest.build((*x_shape[:-1], x_shape[-1] // 2), condition_shape)

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        on, done = _halve(x)
        on, log_det = self.rest(on, condition)
        return ops.concatenate([on, done], axis=-1), log_det

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        on, done = _halve(y)
        return ops.concatenate([self.rest.inverse(on, condition), done], axis=-1)

    def measure(self, x: Tensor, condition: Condition, statistics: list[Tensor]) -> Tensor:
        on, done = _halve(x)
        return ops.concatenate([self.rest.measure(on, condition, statistics), done], axis=-1)

    def statistics_variables(self) -> list[keras.Variable]:
        return self.rest.statistics_variables()


def _halve(x: Tensor) -> tuple[Tensor, Tensor]:
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]
