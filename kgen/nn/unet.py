"""The U-Net of Dhariwal and Nichol (2021) with the transformer blocks of Rombach et al. (2022, appendix E.2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen.nn.activations import geglu
from kgen.nn.attention import MultiHeadAttention
from kgen.nn.embeddings import NoiseEmbedding
from kgen.nn.normalization import GroupNorm
from kgen.nn.remat import RematLayer
from kgen.nn.resampling import Upsample
from kgen.nn.residual import ResidualBlock, conv3x3

Tensor = Any
Shape = tuple[int | None, ...]


class TransformerBlock(RematLayer):
    """A transformer block on pixels: self-attention, attention to the text, and a gated MLP (GEGLU, Shazeer 2020).

    Args:
        heads: Number of heads, which must divide the channels.
        groups: Largest number of groups of the group normalization: see `GroupNorm`.
    """

    def __init__(self, heads: int, groups: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        policy = self.dtype_policy
        self.norm = GroupNorm(groups, epsilon=1e-6, dtype=policy, name="norm")
        self.norm1, self.norm3 = (self._norm(name) for name in ("norm1", "norm3"))
        self.self_attention = MultiHeadAttention(heads, use_bias=False, dtype=policy, name="self_attention")
        self.cross_attention = MultiHeadAttention(heads, use_bias=False, dtype=policy, name="cross_attention")

    def build(self, x_shape: Shape, sequence_shape: Shape) -> None:
        channels, policy = int(x_shape[-1]), self.dtype_policy  # type: ignore[arg-type]  # of images, they are known
        tokens = (x_shape[0], None, channels)
        self.norm.build(x_shape)
        self.self_attention.build(tokens)
        self.cross_attention.build(tokens, sequence_shape)
        self.norm2 = None if self.cross_attention.single else self._norm("norm2")  # a single position needs no queries
        for norm in filter(None, (self.norm1, self.norm2, self.norm3)):
            norm.build(tokens)
        self.inwards = keras.layers.Dense(channels, dtype=policy, name="inwards")
        self.hidden = keras.layers.Dense(8 * channels, dtype=policy, name="hidden")
        self.shrink = keras.layers.Dense(channels, dtype=policy, name="shrink")
        self.outwards = keras.layers.Dense(channels, kernel_initializer="zeros", dtype=policy, name="outwards")
        for layer in (self.inwards, self.hidden, self.outwards):
            layer.build(tokens)
        self.shrink.build((*tokens[:-1], 4 * channels))

    def _norm(self, name: str) -> keras.layers.Layer:
        return keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name=name)

    def call(self, x: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """Maps x, (B, H, W, C), the sequence, (B, L, D), and its mask, (B, L), to (B, H, W, C)."""
        _, height, width, channels = x.shape
        y = self.inwards(ops.reshape(self.norm(x), (-1, height * width, channels)))  # (B, H*W, C)
        y = y + self.self_attention(self.norm1(y))
        y = y + self.cross_attention(y if self.norm2 is None else self.norm2(y), sequence, mask)
        value, gate = ops.split(self.hidden(self.norm3(y)), 2, axis=-1)  # (B, H*W, 4C) each
        y = y + self.shrink(geglu(value, gate))
        return x + ops.reshape(self.outwards(y), (-1, height, width, channels))


class Block(RematLayer):
    """A residual block, followed by a transformer block unless `heads` is 0."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0, groups: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.heads = heads
        policy = self.dtype_policy
        self.residual = ResidualBlock(channels, dropout, groups, dtype=policy, name="residual")
        self.transformer = TransformerBlock(heads, groups, dtype=policy, name="transformer") if heads else None

    def build(self, x_shape: Shape, embedding_shape: Shape, sequence_shape: Shape) -> None:
        self.residual.build(x_shape, embedding_shape)
        if self.transformer is not None:
            self.transformer.build((*x_shape[:-1], self.channels), sequence_shape)

    def call(self, x: Tensor, embedding: Tensor, sequence: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        """Maps (B, H, W, C), (B, E), (B, L, D) and (B, L) to (B, H, W, channels)."""
        x = self.residual(x, embedding, training=training)
        return x if self.transformer is None else self.transformer(x, sequence, mask)


class UNetLayer(keras.layers.Layer):  # type: ignore[misc]
    """A U-Net conditioned on the noise level, with self-attention and attention to the text. Its output starts as 0.

    Args:
        out_channels: Number of channels of the output.
        width: Number of channels of the first level.
        multipliers: Channels of each level, in multiples of `width`. Each level but the first halves height and width.
        blocks: Residual blocks per level of the down path; the up path has one more.
        attention: The levels with attention, counted from 0. The middle always has attention.
        head_dim: Channels per attention head, which must divide the channels of these levels.
        dropout: Dropout rate of the residual blocks, in [0, 1).
        groups: Largest number of groups of the group normalizations: see `GroupNorm`.
    """

    def __init__(
        self,
        out_channels: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        head_dim: int,
        dropout: float = 0.0,
        groups: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # inner layers cast their inputs, but not the noise level
        self.out_channels = out_channels
        self.width = width
        self.multipliers = tuple(multipliers)
        self.blocks = blocks
        self.attention = tuple(attention)
        self.head_dim = head_dim
        self.dropout = dropout
        self.groups = groups
        policy, last = self.dtype_policy, len(self.multipliers) - 1
        channels = [width * m for m in self.multipliers]
        self.embedding = NoiseEmbedding(width, 4 * width, dtype=policy, name="embedding")
        self.conv_in = conv3x3(width, policy, "conv_in")
        self.down = [self._block(i, f"down{i}_{j}") for i in range(last + 1) for j in range(blocks)]
        self.downsample = [conv3x3(channels[i], policy, f"downsample{i}", strides=2) for i in range(last)]
        self.middle_in = self._block(last, "middle_in", attention=True)
        self.middle_out = self._block(last, "middle_out", attention=False)
        self.up = [self._block(i, f"up{i}_{j}") for i in range(last, -1, -1) for j in range(blocks + 1)]
        self.upsample = [Upsample(channels[i], dtype=policy, name=f"upsample{i}") for i in range(last, 0, -1)]
        self.norm_out = GroupNorm(groups, dtype=policy, name="norm_out")
        self.conv_out = conv3x3(out_channels, policy, "conv_out", kernel_initializer="zeros")

    def _block(self, level: int, name: str, attention: bool | None = None) -> Block:
        channels = self.width * self.multipliers[level]
        heads = channels // self.head_dim if (level in self.attention if attention is None else attention) else 0
        return Block(channels, heads, self.dropout, self.groups, dtype=self.dtype_policy, name=name)

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        others = ((None, 4 * self.width), condition_shape["sequence"])
        self.embedding.build((None,), condition_shape["pooled"])
        self.conv_in.build(x_shape)
        channels, skips = self.width, [self.width]
        down, downsample = iter(self.down), iter(self.downsample)
        for level in range(len(self.multipliers)):
            for block in itertools.islice(down, self.blocks):
                block.build(_pixels(channels), *others)
                channels = block.channels
                skips.append(channels)
            if level + 1 < len(self.multipliers):
                next(downsample).build(_pixels(channels))
                skips.append(channels)
        self.middle_in.build(_pixels(channels), *others)
        self.middle_out.build(_pixels(channels), *others)
        up, upsample = iter(self.up), iter(self.upsample)
        for level in reversed(range(len(self.multipliers))):
            for block in itertools.islice(up, self.blocks + 1):
                block.build(_pixels(channels + skips.pop()), *others)
                channels = block.channels
            if level > 0:
                next(upsample).build(_pixels(channels))
        self.norm_out.build(_pixels(channels))
        self.conv_out.build(_pixels(channels))

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """Runs the network.

        Args:
            x: (B, H, W, C).
            noise_level: (B,) float32, with a range of about 1000.
            condition: "sequence" (B, L, D), to which the network attends where "mask" (B, L) is 1, and "pooled" (B, P),
                which is added to the embedding of the noise level.

        Returns:
            (B, H, W, out_channels) float32.
        """
        others = (self.embedding(noise_level, condition["pooled"]), condition["sequence"], condition["mask"])
        x = self.conv_in(x)  # (B, H, W, width)
        skips = [x]
        down, downsample = iter(self.down), iter(self.downsample)
        for level in range(len(self.multipliers)):
            for block in itertools.islice(down, self.blocks):
                x = block(x, *others, training=training)
                skips.append(x)
            if level + 1 < len(self.multipliers):
                x = next(downsample)(x)  # (B, H/2, W/2, C)
                skips.append(x)
        x = self.middle_in(x, *others, training=training)
        x = self.middle_out(x, *others, training=training)
        up, upsample = iter(self.up), iter(self.upsample)
        for level in reversed(range(len(self.multipliers))):
            for block in itertools.islice(up, self.blocks + 1):
                x = block(ops.concatenate([x, skips.pop()], axis=-1), *others, training=training)
            if level > 0:
                x = next(upsample)(x)  # (B, 2H, 2W, C)
        return ops.cast(self.conv_out(ops.silu(self.norm_out(x))), "float32")  # (B, H, W, out_channels)


def _pixels(channels: int) -> Shape:
    return (None, None, None, channels)


def check_levels(width: int, multipliers: tuple[int, ...], attention: tuple[int, ...], head_dim: int) -> None:
    """Raises ValueError if a `UNetLayer` cannot have these levels. The message says what to change."""
    last = len(multipliers) - 1
    if beyond := [level for level in attention if level > last]:
        raise ValueError(f"attention at level {beyond[0]}, but the levels of this U-Net are 0 to {last}")
    for level in {*attention, last}:
        if (channels := width * multipliers[level]) % head_dim:
            raise ValueError(
                f"level {level} has {channels} channels, which heads of {head_dim} do not divide: "
                "change head_dim, width or multipliers"
            )
