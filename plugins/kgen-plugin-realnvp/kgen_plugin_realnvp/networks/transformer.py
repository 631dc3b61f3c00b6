"""A small transformer over patches, as in Jet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen.nn import MultiHeadAttention, RematLayer, gelu_tanh, grid_positions

Tensor = Any
Shape = tuple[int | None, ...]


class TransformerBlock(RematLayer):
    """Self-attention, optional attention to the words, and an MLP. The pooled text modulates the first and the last.

    Args:
        heads: Number of heads of self-attention. It must divide the width of the tokens.
        text_heads: Number of heads of attention to the words. 0 means no such attention.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of the tokens' width.
    """

    def __init__(self, heads: int, text_heads: int, mlp_ratio: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.text_heads = text_heads
        self.mlp_ratio = mlp_ratio

    def build(self, x_shape: Shape, embedding_shape: Shape, sequence_shape: Shape) -> None:
        width, policy = x_shape[-1], self.dtype_policy
        hidden = int(width * self.mlp_ratio)
        self.norm1, self.norm3 = _norm(policy, "norm1"), _norm(policy, "norm3")
        self.self_attention = MultiHeadAttention(self.heads, dtype=policy, name="self_attention")
        self.modulation = keras.layers.Dense(4 * width, dtype=policy, name="modulation")
        self.expand = keras.layers.Dense(hidden, dtype=policy, name="expand")
        self.shrink = keras.layers.Dense(width, dtype=policy, name="shrink")
        for layer in (self.norm1, self.norm3, self.self_attention, self.expand):
            layer.build(x_shape)
        self.modulation.build(embedding_shape)
        self.shrink.build((*x_shape[:-1], hidden))
        self.text_attention = None
        if self.text_heads:
            self.norm2 = _norm(policy, "norm2")
            self.norm2.build(x_shape)
            self.text_attention = MultiHeadAttention(self.text_heads, dtype=policy, name="text_attention")
            self.text_attention.build(x_shape, sequence_shape)

    def call(self, x: Tensor, embedding: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), (B, E), (B, L, D'), (B, L) -> (B, N, D)."""
        modulation = ops.expand_dims(self.modulation(embedding), 1)  # (B, 1, 4D)
        scale1, shift1, scale3, shift3 = ops.split(modulation, 4, axis=-1)  # (B, 1, D) each
        x = x + self.self_attention(self.norm1(x) * (1.0 + scale1) + shift1)
        if self.text_attention is not None:
            x = x + self.text_attention(self.norm2(x), sequence, mask)
        h = self.expand(self.norm3(x) * (1.0 + scale3) + shift3)  # (B, N, mlp_ratio * D)
        return x + self.shrink(gelu_tanh(h))


class TransformerNetwork(keras.layers.Layer):
    """A transformer whose tokens are the positions of x, each a patch of the image (Kolesnikov et al. 2024, section 3).

    Args:
        out_channels: Number of output channels.
        width: Dimension of a token, a multiple of 4, of `heads` and of `text_heads`.
        blocks: Number of transformer blocks.
        heads: Number of heads of the attention among tokens.
        text_heads: Number of heads of attention to the words. With 0, the network uses only the pooled text.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of `width`.
    """

    def __init__(
        self,
        out_channels: int,
        width: int,
        blocks: int,
        heads: int,
        text_heads: int = 0,
        mlp_ratio: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.out_channels = out_channels
        self.width = width
        policy = self.dtype_policy
        self.embedding = keras.layers.Dense(width, activation="silu", dtype=policy, name="embedding")
        self.tokens = keras.layers.Dense(width, dtype=policy, name="tokens")
        self.blocks = [
            TransformerBlock(heads, text_heads, mlp_ratio, dtype=policy, name=f"block{i}") for i in range(blocks)
        ]
        self.norm_out = _norm(policy, "norm_out")
        self.out = keras.layers.Dense(out_channels, kernel_initializer="zeros", dtype=policy, name="out")

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        batch, height, width, channels = x_shape
        tokens = (batch, height * width, self.width)
        self.positions = grid_positions(height, width, self.width)  # (N, D)
        self.embedding.build(condition_shape["pooled"])
        self.tokens.build((batch, height * width, channels))
        for block in self.blocks:
            block.build(tokens, (batch, self.width), condition_shape["sequence"])
        self.norm_out.build(tokens)
        self.out.build(tokens)

    def call(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """(B, H, W, C), condition -> (B, H, W, out_channels) float32."""
        _, height, width, channels = x.shape
        embedding = self.embedding(condition["pooled"])  # (B, D)
        x = self.tokens(ops.reshape(x, (-1, height * width, channels)))  # (B, N, D)
        x = x + ops.cast(self.positions, x.dtype)
        for block in self.blocks:
            x = block(x, embedding, condition["sequence"], condition["mask"])
        y = ops.cast(self.out(self.norm_out(x)), "float32")  # (B, N, out_channels)
        return ops.reshape(y, (-1, height, width, self.out_channels))


def _norm(policy: Any, name: str) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, dtype=policy, name=name)
