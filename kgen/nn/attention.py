"""Multi-head self-attention, which may be causal, and cross-attention to a context with padding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.nn.fused import FusedDense

Tensor = Any

MAX_MATERIALIZED = 2**20
"""Largest number of attention weights per head that are computed as one array, which is fastest. For more, the
backend's own attention is used, which may need less memory."""

HIDDEN = -30_000.0
"""The logit of a hidden position: its weight underflows to 0, but it is finite in every type."""


class MultiHeadAttention(keras.layers.Layer):  # type: ignore[misc]
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2), with the softmax in float32.

    Queries, keys and values come from one matrix product; with a context, keys and values do. For a context of one
    position, there are only values, because queries and keys would have no gradient.

    Args:
        heads: Number of heads, which must divide the width of `x`.
        use_bias: Whether the projections to queries, keys and values have a bias. The output always has one.
        causal: Whether a position of `x` attends only to itself and to earlier positions; only without a context.
        output_initializer: Initializer of the output's kernel. With "zeros", a residual branch starts as zero.
    """

    def __init__(
        self,
        heads: int,
        *,
        use_bias: bool = True,
        causal: bool = False,
        output_initializer: str = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.use_bias = use_bias
        self.causal = causal
        self.output_initializer = output_initializer

    def build(self, x_shape: tuple[int | None, ...], context_shape: tuple[int | None, ...] | None = None) -> None:
        width = x_shape[-1]
        if width is None or width % self.heads:
            raise ValueError(f"a width of {width} is not divisible into {self.heads} heads")
        if self.causal and context_shape is not None:
            raise ValueError("causal attention has no context: its positions would have no order")
        self.self_attention = context_shape is None
        self.single = context_shape is not None and context_shape[1] == 1
        if context_shape is None:
            self.qkv = self._dense(3, width, "qkv", x_shape)
        elif self.single:
            self.v = self._dense(1, width, "v", context_shape)
        else:
            self.q = self._dense(1, width, "q", x_shape)
            self.kv = self._dense(2, width, "kv", context_shape)
        self.out = keras.layers.Dense(
            width, kernel_initializer=self.output_initializer, dtype=self.dtype_policy, name="out"
        )
        self.out.build(x_shape)

    def _dense(self, parts: int, width: int, name: str, input_shape: tuple[int | None, ...]) -> FusedDense:
        layer = FusedDense(parts * width, parts, use_bias=self.use_bias, dtype=self.dtype_policy, name=name)
        layer.build(input_shape)
        return layer

    def call(self, x: Tensor, context: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """Computes attention.

        Args:
            x: (B, N, C), the input for queries.
            context: (B, L, D), the input for keys and values; None: `x` itself, with L = N.
            key_mask: (B, L), 1 for positions to attend to and 0 for others, with at least one 1; None: all positions.

        Returns:
            (B, N, C).
        """
        if (context is None) != self.self_attention:
            raise ValueError("an attention layer is built either for self-attention or for a context")
        if self.single:
            return ops.broadcast_to(self.out(self.v(context)), ops.shape(x))
        if context is None:
            q, k, v = self._split(self.qkv(x), 3)
        else:
            (q,) = self._split(self.q(x), 1)
            k, v = self._split(self.kv(context), 2)
        y = attend(q, k, v, key_mask, causal=self.causal)  # (B, H, N, C/H)
        y = ops.transpose(y, (0, 2, 1, 3))  # (B, N, H, C/H)
        return self.out(ops.reshape(y, (-1, *x.shape[1:])))  # (B, N, C)

    def _split(self, projected: Tensor, parts: int) -> list[Tensor]:
        """(B, N, parts * C) -> `parts` arrays (B, H, N, C/H)."""
        length, width = projected.shape[1], projected.shape[2] // parts
        y = ops.reshape(projected, (-1, length, parts, self.heads, width // self.heads))
        return ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)), parts, axis=0)  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``.

    Args:
        q: (B, H, N, d).
        k, v: (B, H, L, d).
        key_mask: (B, L) of 1 and 0, or None.
        causal: Whether query i attends only to the keys 0 .. i, which needs N = L.

    Returns:
        (B, H, N, d).
    """
    length, dim = q.shape[2], q.shape[3]
    visible = _visible(length, key_mask, causal)
    if length * k.shape[2] > MAX_MATERIALIZED:
        q, k, v = (ops.transpose(y, (0, 2, 1, 3)) for y in (q, k, v))  # (B, N, H, d)
        return ops.transpose(ops.dot_product_attention(q, k, v, mask=visible), (0, 2, 1, 3))
    logits = ops.matmul(q * dim**-0.5, ops.swapaxes(k, 2, 3))  # (B, H, N, L)
    logits = ops.cast(logits, "float32")
    if visible is not None:  # selected: TensorFlow would fuse the sum with a constant mask into a slow kernel
        logits = ops.where(visible, logits, HIDDEN)
    return ops.matmul(ops.cast(attention_weights(logits), v.dtype), v)


def _visible(length: int, key_mask: Tensor | None, causal: bool) -> Tensor | None:
    """The positions to attend to, bool (B or 1, 1, N or 1, L); None: all of them."""
    visible = None if key_mask is None else ops.cast(key_mask, "bool")[:, None, None, :]  # (B, 1, 1, L)
    if not causal:
        return visible
    earlier = ops.convert_to_tensor(np.tri(length, dtype=bool))[None, None]  # (1, 1, N, N)
    return earlier if visible is None else ops.logical_and(earlier, visible)


def attention_weights(logits: Tensor) -> Tensor:
    """The softmax over the last axis. For a single position, it is 1 without the warning of Keras."""
    return ops.softmax(logits, axis=-1) if logits.shape[-1] != 1 else ops.ones_like(logits)
