"""The transformer of both towers."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgen.nn import FusedDense, RematLayer, gelu

Tensor = Any
Shape = tuple[int | None, ...]

Activation = Literal["gelu", "quick_gelu"]
"""GELU, or its approximation by a sigmoid, with which OpenAI trained CLIP."""

HIDDEN = -30_000.0
"""A logit whose weight underflows to 0, but which is finite in every type."""

EPSILON = 1e-5
"""The number that normalizations add to the variance, in the published code."""


class Block(RematLayer):
    """A pre-norm block (Radford et al. 2019): self-attention, and a hidden layer.

    The weights are initialized as in the published code of CLIP (Radford et al. 2021).

    Args:
        heads: Number of attention heads, which must divide the width.
        depth: Number of blocks of the tower, by which the residual branches are scaled.
        causal: Whether a position attends only to itself and to earlier positions.
        hidden: Width of the hidden layer; None: four times the width.
        activation: The activation of the hidden layer.
        epsilon: The number that the normalizations add to the variance.
    """

    def __init__(
        self,
        heads: int,
        depth: int,
        causal: bool,
        hidden: int | None = None,
        activation: Activation = "gelu",
        epsilon: float = EPSILON,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.depth = depth
        self.causal = causal
        self.hidden = hidden
        self.activation = activation
        self.norm1, self.norm2 = (
            keras.layers.LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name=name)
            for name in ("norm1", "norm2")
        )

    def build(self, x_shape: Shape) -> None:
        width = x_shape[-1]
        if width is None or width % self.heads:
            raise ValueError(f"a width of {width} is not divisible into {self.heads} heads")
        residual, hidden = (2 * self.depth * width) ** -0.5, self.hidden or 4 * width
        self.qkv = self._dense(3 * width, "qkv", width**-0.5, x_shape, parts=3)
        self.out = self._dense(width, "out", residual, x_shape)
        self.widen = self._dense(hidden, "widen", (2 * width) ** -0.5, x_shape)
        self.narrow = self._dense(width, "narrow", residual, (*x_shape[:-1], hidden))
        for layer in (self.norm1, self.norm2):
            layer.build(x_shape)

    def _dense(self, units: int, name: str, deviation: float, shape: Shape, parts: int = 1) -> FusedDense:
        normal = keras.initializers.RandomNormal(stddev=deviation)
        layer = FusedDense(units, parts, kernel_initializer=normal, dtype=self.dtype_policy, name=name)
        layer.build(shape)
        return layer

    def call(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.out(self._attend(self.qkv(self.norm1(x))))
        return x + self.narrow(self._activated(self.widen(self.norm2(x))))

    def _activated(self, x: Tensor) -> Tensor:
        if self.activation == "gelu":
            return gelu(x)
        return x * ops.sigmoid(1.702 * x)  # Hendrycks and Gimpel 2016, section 2

    def _attend(self, qkv: Tensor) -> Tensor:
        """(B, L, 3D) -> (B, L, D)."""
        length, width = qkv.shape[1], qkv.shape[2] // 3
        y = ops.reshape(qkv, (-1, length, 3, self.heads, width // self.heads))
        q, k, v = ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)), 3, axis=0)  # (B, H, L, D/H)
        logits = ops.matmul(q * (width // self.heads) ** -0.5, ops.swapaxes(k, 2, 3))  # (B, H, L, L)
        logits = ops.cast(logits, "float32")
        if self.causal:  # selected, because TensorFlow fuses an addition here into a slow kernel
            logits = ops.where(ops.convert_to_tensor(np.tri(length, dtype=bool)), logits, HIDDEN)
        weights = ops.softmax(logits, axis=-1) if length != 1 else ops.ones_like(logits)  # Keras warns of one logit
        y = ops.matmul(ops.cast(weights, v.dtype), v)  # (B, H, L, D/H)
        return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, length, width))


def blocks(width: int, depth: int, heads: int, causal: bool, policy: Any, **options: Any) -> list[Block]:
    """The blocks of a tower, with other options of `Block`. Raises ValueError if `heads` does not divide `width`."""
    if width % heads:
        raise ValueError(f"width {width} must be a multiple of heads {heads}")
    return [Block(heads, depth, causal, dtype=policy, name=f"block_{i}", **options) for i in range(depth)]
