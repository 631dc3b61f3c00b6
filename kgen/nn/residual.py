"""The residual block of U-Nets and convolutional autoencoders."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.nn.dropout import Dropout
from kgen.nn.normalization import GroupNorm
from kgen.nn.remat import RematLayer

Tensor = Any
Shape = tuple[int | None, ...]


class ResidualBlock(RematLayer):
    """A residual block with two convolutions. The embedding scales and shifts the input of the second one.

    Args:
        channels: Number of channels of the output.
        dropout: Dropout rate before the second convolution, in [0, 1).
        groups: Largest number of groups of the normalizations: see `GroupNorm`.
    """

    def __init__(self, channels: int, dropout: float = 0.0, groups: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        policy = self.dtype_policy
        self.norm1 = GroupNorm(groups, dtype=policy, name="norm1")
        self.conv1 = conv3x3(channels, policy, "conv1")
        self.modulation = keras.layers.Dense(2 * channels, dtype=policy, name="modulation")
        self.norm2 = GroupNorm(groups, dtype=policy, name="norm2")
        self.dropout = Dropout(dropout, dtype=policy, name="dropout")
        self.conv2 = conv3x3(channels, policy, "conv2", kernel_initializer="zeros")
        self.shortcut: keras.layers.Layer | None = None

    def build(self, x_shape: Shape, embedding_shape: Shape) -> None:
        inner = (*x_shape[:-1], self.channels)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.modulation.build(embedding_shape)
        self.norm2.build(inner)
        self.dropout.build(inner)
        self.conv2.build(inner)
        if x_shape[-1] != self.channels:
            self.shortcut = keras.layers.Dense(self.channels, dtype=self.dtype_policy, name="shortcut")
            self.shortcut.build(x_shape)

    def call(self, x: Tensor, embedding: Tensor, training: bool = False) -> Tensor:
        """Maps x, (B, H, W, C), and the embedding, (B, E), to (B, H, W, channels)."""
        scale, shift = ops.split(self.modulation(embedding), 2, axis=-1)  # (B, channels) each
        h = self.conv1(ops.silu(self.norm1(x)))  # (B, H, W, channels)
        h = ops.silu(self.norm2(h, scale, shift))
        h = self.conv2(self.dropout(h, training=training))
        return h + (x if self.shortcut is None else self.shortcut(x))


def conv3x3(channels: int, policy: Any, name: str, **options: Any) -> keras.layers.Layer:
    """A 3x3 convolution that keeps height and width, unless it has strides. `options` are those of Conv2D."""
    return keras.layers.Conv2D(channels, 3, padding="same", dtype=policy, name=name, **options)
