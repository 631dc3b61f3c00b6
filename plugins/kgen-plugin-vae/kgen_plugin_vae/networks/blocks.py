"""Building blocks of the encoder and the decoder."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.nn import GroupNorm, MultiHeadAttention, RematLayer, ResidualBlock

Tensor = Any
Shape = tuple[int | None, ...]


class TextEmbedding(keras.layers.Layer):
    """The text embedding that modulates every block: ``SiLU(MLP(pooled))``.

    Args:
        width: Dimension of the embedding and of the hidden layer.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(width, activation="silu", dtype=self.dtype_policy, name="hidden")
        self.out = keras.layers.Dense(width, activation="silu", dtype=self.dtype_policy, name="out")

    def build(self, pooled_shape: Shape) -> None:
        self.hidden.build(pooled_shape)
        self.out.build((None, self.hidden.units))

    def call(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, width)."""
        return self.out(self.hidden(pooled))


class Block(RematLayer):
    """A residual block and, unless `heads` is 0, attention of every pixel to the words."""

    def __init__(self, channels: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.residual = ResidualBlock(channels, dtype=policy, name="residual")
        self.norm: keras.layers.Layer | None = None
        if heads:
            self.norm = GroupNorm(dtype=policy, name="norm")
            self.attention = MultiHeadAttention(heads, output_initializer="zeros", dtype=policy, name="attention")

    def build(self, x_shape: Shape, embedding_shape: Shape, sequence_shape: Shape) -> None:
        self.residual.build(x_shape, embedding_shape)
        if self.norm is not None:
            channels = self.residual.channels
            self.norm.build((*x_shape[:-1], channels))
            self.attention.build((x_shape[0], None, channels), sequence_shape)

    def call(self, x: Tensor, embedding: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W, C), (B, E), (B, L, D), (B, L) -> (B, H, W, channels)."""
        x = self.residual(x, embedding)
        if self.norm is None:
            return x
        _, height, width, channels = x.shape
        pixels = ops.reshape(self.norm(x), (-1, height * width, channels))  # (B, H*W, C)
        return x + ops.reshape(self.attention(pixels, sequence, mask), (-1, height, width, channels))
