"""The base class of invertible maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

Tensor = Any
Shape = tuple[int | None, ...]
Condition = Mapping[str, Tensor]


class Bijection(keras.layers.Layer):
    """An invertible map of arrays (B, H, W, C), given a condition. It computes in float32, so that it can be inverted.

    A subclass defines `call` and `inverse`, and `compute_output_shape` if it changes the shape. It must be built
    explicitly, by ``build(x_shape, condition_shape)``, before any of these methods is called.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Adds a weight that is never autocast, because `inverse`, unlike `call`, runs in the caller's precision."""
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        pass

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Maps data toward noise.

        Args:
            x: (B, H, W, C) float32.
            condition: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P).

        Returns:
            y, and the logarithm of the Jacobian's absolute determinant in nats: (B,), or a scalar if it is the same for
            every x.
        """
        raise NotImplementedError

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        """Maps noise toward data: returns the x that `call` maps to y."""
        raise NotImplementedError

    def measure(self, x: Tensor, condition: Condition, statistics: list[Tensor]) -> Tensor:
        """Computes y like `call`, while the normalization layers inside measure this batch.

        Args:
            statistics: List to which each `ActNorm` appends its statistics, in the order of `statistics_variables`.

        Returns:
            y, computed with these statistics.
        """
        return self(x, condition)[0]

    def statistics_variables(self) -> list[keras.Variable]:
        """Returns the variables for the statistics of `measure`."""
        return []
