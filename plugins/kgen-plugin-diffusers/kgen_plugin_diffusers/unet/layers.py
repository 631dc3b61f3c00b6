"""The layers of diffusers' conditional U-Net. Their attributes have the names of its modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgen.nn import MultiHeadAttention, RematLayer, Upsample
from kgen_plugin_diffusers.layers import FeedForward, ResnetBlock, Shape, Tensor, conv1x1, group_norm
from kgen_plugin_diffusers.unet.architecture import Architecture, Stage

TRANSFORMER_EPSILON = 1e-5
"""The number that the layer normalizations add to the variance."""


class TransformerBlock(RematLayer):
    """Self-attention, attention to the text, and a gated hidden layer (`BasicTransformerBlock`).

    Args:
        heads: Number of attention heads.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm1, self.norm2, self.norm3 = (
            keras.layers.LayerNormalization(epsilon=TRANSFORMER_EPSILON, dtype=policy, name=f"norm{number}")
            for number in (1, 2, 3)
        )
        self.attn1, self.attn2 = (
            MultiHeadAttention(heads, use_bias=False, dtype=policy, name=f"attn{number}") for number in (1, 2)
        )
        self.ff = FeedForward("geglu", dtype=policy, name="ff")

    def build(self, x_shape: Shape, text_shape: Shape) -> None:
        for layer in (self.norm1, self.norm2, self.norm3, self.attn1, self.ff):
            layer.build(x_shape)
        self.attn2.build(x_shape, text_shape)

    def call(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C), (B, L, D), (B, L) -> (B, N, C)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text, mask)
        return x + self.ff(self.norm3(x))


class Transformer(keras.layers.Layer):
    """Transformer blocks on all positions of an image, with a residual connection (`Transformer2DModel`).

    Args:
        model: The configuration.
        stage: The stage.
    """

    def __init__(self, model: Architecture, stage: Stage, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm = group_norm(model.groups, policy, "norm")
        self.linear = model.linear
        self.proj_in, self.proj_out = (
            keras.layers.Dense(stage.channels, dtype=policy, name=name)
            if model.linear
            else conv1x1(stage.channels, policy, name)
            for name in ("proj_in", "proj_out")
        )
        self.transformer_blocks = [
            TransformerBlock(stage.heads, dtype=policy, name=f"block{number}") for number in range(stage.depth)
        ]

    def build(self, x_shape: Shape, text_shape: Shape) -> None:
        tokens = (x_shape[0], None, x_shape[-1])
        self.norm.build(x_shape)
        for layer in (self.proj_in, self.proj_out):
            layer.build(tokens if self.linear else x_shape)
        for block in self.transformer_blocks:
            block.build(tokens, text_shape)

    def call(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(B, h, w, C), (B, L, D), (B, L) -> (B, h, w, C)."""
        image, tokens = (-1, *x.shape[1:]), (-1, x.shape[1] * x.shape[2], x.shape[3])
        y = self.norm(x)
        y = self.proj_in(ops.reshape(y, tokens)) if self.linear else ops.reshape(self.proj_in(y), tokens)  # (B, h*w, C)
        for block in self.transformer_blocks:
            y = block(y, text, mask)
        y = ops.reshape(self.proj_out(y), image) if self.linear else self.proj_out(ops.reshape(y, image))
        return x + y


class Downsample(keras.layers.Layer):
    """A 3x3 convolution of stride 2 (`Downsample2D`).

    Args:
        channels: Number of channels of the output.
        both: Whether it pads 1 on all sides, or else at the right and the bottom.
    """

    def __init__(self, channels: int, both: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pads = (1, 1) if both else (0, 1)
        self.conv = keras.layers.Conv2D(channels, 3, strides=2, dtype=self.dtype_policy, name="conv")

    def build(self, x_shape: Shape) -> None:
        self.conv.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h', w', channels)."""
        return self.conv(ops.pad(x, ((0, 0), self.pads, self.pads, (0, 0))))


class UpsampleTo(keras.layers.Layer):
    """Resizes to a given size by the nearest neighbors, and a 3x3 convolution (`Upsample2D`).

    Args:
        channels: Number of channels of the output.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Upsample(channels, dtype=self.dtype_policy, name="conv")

    def build(self, x_shape: Shape) -> None:
        self.conv.build(x_shape)

    def call(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h, w, C) -> (B, *size, channels)."""
        if size == (2 * x.shape[1], 2 * x.shape[2]):
            return self.conv(x)
        for axis, length in enumerate(size, 1):
            x = ops.take(x, np.arange(length) * x.shape[axis] // length, axis=axis)
        return ops.conv(x, ops.cast(self.conv.kernel, x.dtype), padding="same") + ops.cast(self.conv.bias, x.dtype)


class Blocks(keras.layers.Layer):
    """The residual blocks of a stage, each with a transformer after it if there is attention.

    Args:
        model: The configuration.
        stage: The stage.
        part: The way down, whose outputs are skips for the way up; the way up; or the middle between them, which has
            two residual blocks, and one transformer.
        last: Whether the size stays.
    """

    def __init__(
        self, model: Architecture, stage: Stage, part: Literal["down", "middle", "up"], last: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        policy, channels = self.dtype_policy, stage.channels
        count = {"down": stage.blocks, "middle": 2, "up": stage.blocks + 1}[part]
        transformers = {"down": count * stage.down, "middle": 1, "up": count * stage.up}[part]
        self.resnets = [
            ResnetBlock(channels, model.groups, model.epsilon, model.modulation, dtype=policy, name=f"resnet{number}")
            for number in range(count)
        ]
        self.attentions = [
            Transformer(model, stage, dtype=policy, name=f"attention{number}") for number in range(transformers)
        ]
        down, up = part == "down" and not last, part == "up" and not last
        self.downsamplers = [Downsample(channels, model.padding, dtype=policy, name="downsampler")] if down else []
        self.upsamplers = [UpsampleTo(channels, dtype=policy, name="upsampler")] if up else []

    def build(self, channels: Sequence[int], embedding_shape: Shape, text_shape: Shape) -> None:
        """Builds the layers.

        Args:
            channels: Number of channels of the input of each residual block, with those of its skip.
            embedding_shape, text_shape: (None, E) and (None, None, D).
        """
        for block, number in zip(self.resnets, channels, strict=True):
            block.build((None, None, None, number), embedding_shape)
        for attention in self.attentions:
            attention.build((None, None, None, self.resnets[0].channels), text_shape)
        for sampler in (*self.downsamplers, *self.upsamplers):
            sampler.build((None, None, None, self.resnets[0].channels))

    def call(
        self,
        x: Tensor,
        embedding: Tensor,
        text: Tensor,
        mask: Tensor,
        skips: Sequence[Tensor] = (),
        size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Computes the stage.

        Args:
            x: (B, h, w, C).
            embedding: (B, E), silu of the embedding of the time.
            text, mask: (B, L, D) and (B, L).
            skips: On the way up, an input of each residual block, (B, h, w, C').
            size: On the way up, the height and width of the next stage; None: there is none.

        Returns:
            (B, h', w', channels), and all outputs of the layers, each (B, h or h', w or w', channels).
        """
        made = []
        for number, block in enumerate(self.resnets):
            x = block(ops.concatenate([x, skips[number]], axis=-1) if skips else x, embedding)  # (B, h, w, channels)
            if number < len(self.attentions):
                x = self.attentions[number](x, text, mask)
            made.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)  # (B, h / 2, w / 2, channels)
            made.append(x)
        for upsampler in self.upsamplers:
            x = upsampler(x, size=size)  # (B, *size, channels)
        return x, made
