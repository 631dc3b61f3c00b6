"""The diffusion transformer of Peebles and Xie (2023), with cross-attention to the text (PixArt-alpha, Chen 2023)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen.nn import Dropout, MultiHeadAttention, NoiseEmbedding, RematLayer, gelu_tanh, grid_positions

Tensor = Any
Shape = tuple[int | None, ...]


_positions = functools.lru_cache(maxsize=64)(grid_positions)


class DiTBlock(RematLayer):
    """Self-attention, cross-attention to the text, and an MLP.

    The embedding scales, shifts and gates the self-attention and the MLP (adaLN-zero). All gates and the output of the
    cross-attention start at 0, so that the block starts as the identity.

    Args:
        heads: Number of attention heads. It must divide the width of the tokens.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of the tokens' width.
        dropout: Dropout rate on the output of each of the three.
    """

    def __init__(self, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        policy = self.dtype_policy
        self.norm1, self.norm2, self.norm3 = (_norm(policy, f"norm{i}") for i in (1, 2, 3))
        self.self_attention = MultiHeadAttention(heads, dtype=policy, name="self_attention")
        self.cross_attention = MultiHeadAttention(
            heads, output_initializer="zeros", dtype=policy, name="cross_attention"
        )
        self.dropout = Dropout(dropout, dtype=policy, name="dropout")

    def build(self, x_shape: Shape, embedding_shape: Shape, sequence_shape: Shape) -> None:
        width, policy = x_shape[-1], self.dtype_policy
        hidden = int(width * self.mlp_ratio)
        for layer in (self.norm1, self.norm2, self.norm3, self.self_attention, self.dropout):
            layer.build(x_shape)
        self.cross_attention.build(x_shape, sequence_shape)
        self.modulation = keras.layers.Dense(6 * width, kernel_initializer="zeros", dtype=policy, name="modulation")
        self.modulation.build(embedding_shape)
        self.expand = keras.layers.Dense(hidden, dtype=policy, name="expand")
        self.expand.build(x_shape)
        self.shrink = keras.layers.Dense(width, dtype=policy, name="shrink")
        self.shrink.build((*x_shape[:-1], hidden))

    def call(self, x: Tensor, embedding: Tensor, sequence: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        """(B, N, D), (B, E), (B, L, D'), (B, L) -> (B, N, D)."""
        modulation = ops.expand_dims(self.modulation(embedding), 1)  # (B, 1, 6D)
        shift1, scale1, gate1, shift3, scale3, gate3 = ops.split(modulation, 6, axis=-1)  # (B, 1, D) each
        y = self.self_attention(self.norm1(x) * (1.0 + scale1) + shift1)
        x = x + gate1 * self.dropout(y, training=training)
        x = x + self.dropout(self.cross_attention(self.norm2(x), sequence, mask), training=training)
        y = self.shrink(gelu_tanh(self.expand(self.norm3(x) * (1.0 + scale3) + shift3)))
        return x + gate3 * self.dropout(y, training=training)


class DiTLayer(keras.layers.Layer):
    """The transformer. `kgen_plugin_diffusion.networks` describes its call, and `DiT` there its arguments."""

    def __init__(
        self,
        out_channels: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the inner layers cast their inputs; the noise level stays float32
        self.out_channels = out_channels
        self.patch = patch
        self.width = width
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.dropout = dropout
        policy = self.dtype_policy
        self.embedding = NoiseEmbedding(256, width, dtype=policy, name="embedding")
        self.patches = keras.layers.Conv2D(width, patch, strides=patch, dtype=policy, name="patches")
        self.blocks = [DiTBlock(heads, mlp_ratio, dropout, dtype=policy, name=f"block{i}") for i in range(depth)]
        self.norm_out = _norm(policy, "norm_out")
        self.modulation = keras.layers.Dense(2 * width, kernel_initializer="zeros", dtype=policy, name="modulation")
        self.out = keras.layers.Dense(
            patch * patch * out_channels, kernel_initializer="zeros", dtype=policy, name="out"
        )

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        tokens, embedding = (None, None, self.width), (None, self.width)
        self.embedding.build((None,), condition_shape["pooled"])
        self.patches.build(x_shape)
        for block in self.blocks:
            block.build(tokens, embedding, condition_shape["sequence"])
        self.norm_out.build(tokens)
        self.modulation.build(embedding)
        self.out.build(tokens)

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, H, W, C), (B,), condition -> (B, H, W, out_channels) float32."""
        embedding = self.embedding(noise_level, condition["pooled"])  # (B, D)
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)  # (h, w), of a static shape
        positions = _positions(*grid, self.width)  # (N, D)
        x = ops.reshape(self.patches(x), (-1, *positions.shape))  # (B, N, D)
        x = x + ops.cast(positions, x.dtype)
        for block in self.blocks:
            x = block(x, embedding, condition["sequence"], condition["mask"], training=training)
        shift, scale = ops.split(ops.expand_dims(self.modulation(embedding), 1), 2, axis=-1)  # (B, 1, D) each
        y = self.out(self.norm_out(x) * (1.0 + scale) + shift)  # (B, N, p*p*C)
        return self._unpatch(ops.cast(y, "float32"), *grid)

    def _unpatch(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """(B, h*w, p*p*C) -> (B, h*p, w*p, C)."""
        p, channels = self.patch, self.out_channels
        y = ops.reshape(tokens, (-1, rows, columns, p, p, channels))
        y = ops.transpose(y, (0, 1, 3, 2, 4, 5))  # (B, h, p, w, p, C)
        return ops.reshape(y, (-1, rows * p, columns * p, channels))


def _norm(policy: Any, name: str) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, dtype=policy, name=name)
