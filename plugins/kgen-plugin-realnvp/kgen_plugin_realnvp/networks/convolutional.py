"""A residual convolutional network with position embeddings, conditioned on the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen.nn import GroupNorm, MultiHeadAttention, RematLayer, grid_positions

Tensor = Any
Shape = tuple[int | None, ...]


class ResidualBlock(RematLayer):
    """A residual block: the text scales and shifts the input of both convolutions (FiLM, Perez et al. 2018)."""

    def build(self, x_shape: Shape, embedding_shape: Shape) -> None:
        channels, policy = x_shape[-1], self.dtype_policy
        self.norm1, self.norm2 = _norm(channels, policy, "norm1"), _norm(channels, policy, "norm2")
        self.conv1 = keras.layers.Conv2D(channels, 3, padding="same", dtype=policy, name="conv1")
        self.conv2 = keras.layers.Conv2D(channels, 3, padding="same", dtype=policy, name="conv2")
        self.film = keras.layers.Dense(4 * channels, dtype=policy, name="film")
        for layer in (self.norm1, self.norm2, self.conv1, self.conv2):
            layer.build(x_shape)
        self.film.build(embedding_shape)

    def call(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, H, W, D), (B, E) -> (B, H, W, D)."""
        scale1, shift1, scale2, shift2 = ops.split(self.film(embedding), 4, axis=-1)  # (B, D) each
        h = self.conv1(ops.silu(self.norm1(x, scale1, shift1)))
        return x + self.conv2(ops.silu(self.norm2(h, scale2, shift2)))


class ConvolutionalNetwork(keras.layers.Layer):
    """A 3x3 convolution, residual blocks, optional attention to the text, and a last 3x3 convolution.

    Args:
        out_channels: Number of output channels.
        width: Number of channels inside, a multiple of 4.
        blocks: Number of residual blocks.
        text_heads: Number of heads of attention to the words. With 0, the network uses only the pooled text.
        image: Whether the condition has an "image" (B, H, W, C'), which is concatenated to x.
    """

    def __init__(
        self,
        out_channels: int,
        width: int,
        blocks: int,
        text_heads: int = 0,
        image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.out_channels = out_channels
        self.width = width
        self.text_heads = text_heads
        self.image = image
        policy = self.dtype_policy
        self.embedding = keras.layers.Dense(width, activation="silu", dtype=policy, name="embedding")
        self.conv_in = keras.layers.Conv2D(width, 3, padding="same", dtype=policy, name="conv_in")
        self.blocks = [ResidualBlock(dtype=policy, name=f"block{i}") for i in range(blocks)]
        self.attention = MultiHeadAttention(text_heads, dtype=policy, name="attention") if text_heads else None
        self.norm_out = _norm(width, policy, "norm_out")
        self.conv_out = keras.layers.Conv2D(
            out_channels, 3, padding="same", kernel_initializer="zeros", dtype=policy, name="conv_out"
        )

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        batch, height, width, channels = x_shape
        inner = (batch, height, width, self.width)
        self.positions = grid_positions(height, width, self.width).reshape(height, width, self.width)
        self.embedding.build(condition_shape["pooled"])
        self.conv_in.build((*x_shape[:-1], channels + (condition_shape["image"][-1] if self.image else 0)))
        for block in self.blocks:
            block.build(inner, (batch, self.width))
        if self.attention is not None:
            self.attention.build((batch, height * width, self.width), condition_shape["sequence"])
        self.norm_out.build(inner)
        self.conv_out.build(inner)

    def call(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """(B, H, W, C), condition -> (B, H, W, out_channels) float32."""
        if self.image:
            x = ops.concatenate([x, condition["image"]], axis=-1)
        embedding = self.embedding(condition["pooled"])  # (B, D)
        x = self.conv_in(x)  # (B, H, W, D)
        x = x + ops.cast(self.positions, x.dtype)
        for block in self.blocks:
            x = block(x, embedding)
        if self.attention is not None:
            pixels = ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.width))  # (B, H*W, D)
            text = self.attention(pixels, condition["sequence"], condition["mask"])
            x = x + ops.reshape(text, (-1, *x.shape[1:]))
        return ops.cast(self.conv_out(ops.silu(self.norm_out(x))), "float32")  # (B, H, W, out_channels)


def _norm(channels: int, policy: Any, name: str) -> GroupNorm:
    """Uses groups of 16 channels or more: smaller groups keep little but signs, which is too steep to invert."""
    return GroupNorm(max(1, channels // 16), dtype=policy, name=name)
