"""The layers that diffusers' models share. Their attributes have the names of its modules, to find weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgen.nn import GroupNorm, MultiHeadAttention, RematLayer, Upsample, conv3x3, gelu, gelu_tanh

Tensor = Any
Shape = tuple[int | None, ...]

EPSILON = 1e-6
"""The number that all normalizations of the autoencoders add to the variance."""


def group_norm(groups: int, policy: Any, name: str, epsilon: float = EPSILON) -> GroupNorm:
    """A normalization with exactly `groups` groups, which may have one channel each."""
    return GroupNorm(groups, epsilon, min_channels=1, dtype=policy, name=name)


def conv1x1(channels: int, policy: Any, name: str) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(channels, 1, dtype=policy, name=name)


class ResnetBlock(RematLayer):
    """A residual block of two normalized convolutions (`ResnetBlock2D`).

    Args:
        channels: Number of channels of the output.
        groups: Number of groups of the normalizations.
        epsilon: The number that the normalizations add to the variance.
        time: "default" adds an embedding of the time before the second normalization; "scale_shift" scales and shifts
            after it; "": there is no embedding.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        epsilon: float = EPSILON,
        time: Literal["", "default", "scale_shift"] = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        policy, self.channels, self.time = self.dtype_policy, channels, time
        self.norm1, self.norm2 = (group_norm(groups, policy, f"norm{number}", epsilon) for number in (1, 2))
        self.conv1, self.conv2 = (conv3x3(channels, policy, f"conv{number}") for number in (1, 2))
        self.time_emb_proj: keras.layers.Layer | None = None
        if time:
            units = channels if time == "default" else 2 * channels
            self.time_emb_proj = keras.layers.Dense(units, dtype=policy, name="time_emb_proj")
        self.conv_shortcut: keras.layers.Layer | None = None

    def build(self, x_shape: Shape, embedding_shape: Shape | None = None) -> None:
        inner = (*x_shape[:-1], self.channels)
        if self.time_emb_proj is not None:
            self.time_emb_proj.build(embedding_shape)
        for layer, shape in ((self.norm1, x_shape), (self.conv1, x_shape), (self.norm2, inner), (self.conv2, inner)):
            layer.build(shape)
        if x_shape[-1] != self.channels:
            self.conv_shortcut = conv1x1(self.channels, self.dtype_policy, "conv_shortcut")
            self.conv_shortcut.build(x_shape)

    def call(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, h, w, C), and silu of the embedding (B, E) -> (B, h, w, channels)."""
        h = self.conv1(ops.silu(self.norm1(x)))  # (B, h, w, channels)
        h = self.conv2(ops.silu(self._second_norm(h, embedding)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    def _second_norm(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        if self.time_emb_proj is None:
            return self.norm2(h)
        time = self.time_emb_proj(embedding)  # (B, channels) or (B, 2 * channels)
        if self.time == "default":
            return self.norm2(h + time[:, None, None])
        return self.norm2(h, *ops.split(time, 2, axis=-1))


class Attention(keras.layers.Layer):
    """Self-attention of one head among all positions, with a residual connection (`Attention` with a group norm).

    Args:
        groups: Number of groups of the normalization.
    """

    def __init__(self, groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_norm = group_norm(groups, self.dtype_policy, "group_norm")
        self.attention = MultiHeadAttention(1, dtype=self.dtype_policy, name="attention")

    def build(self, x_shape: Shape) -> None:
        self.group_norm.build(x_shape)
        self.attention.build((None, None, x_shape[-1]))

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        _, height, width, channels = x.shape
        y = ops.reshape(self.group_norm(x), (-1, height * width, channels))  # (B, h*w, C)
        return x + ops.reshape(self.attention(y), (-1, height, width, channels))


class Sampler(keras.layers.Layer):
    """Changes the size by the factor 2: `Upsample2D`, or `Downsample2D` with a padding at the right and the bottom.

    Args:
        channels: Number of channels of the input and the output.
        up: Whether it doubles the size by repeating every position; otherwise it halves the size.
    """

    def __init__(self, channels: int, up: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.conv = Upsample(channels, dtype=policy) if up else conv3x3(channels, policy, "conv", strides=2)

    def build(self, x_shape: Shape) -> None:
        self.conv.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, 2h, 2w, C) or (B, h/2, w/2, C)."""
        return self.conv(x)


class Blocks(keras.layers.Layer):
    """Residual blocks, with attention between them, and a change of the size at the end.

    Args:
        channels: Number of channels of the output.
        resnets: Number of residual blocks.
        attentions: Number of attention layers. Each follows the residual block of the same number.
        groups: Number of groups of the normalizations.
        sampler: "up" doubles the size, "down" halves it, "" keeps it.
    """

    def __init__(
        self, channels: int, resnets: int, attentions: int, groups: int, sampler: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        policy, self.channels = self.dtype_policy, channels
        self.resnets = [ResnetBlock(channels, groups, dtype=policy, name=f"resnet{i}") for i in range(resnets)]
        self.attentions = [Attention(groups, dtype=policy, name=f"attention{i}") for i in range(attentions)]
        made = [Sampler(channels, sampler == "up", dtype=policy, name="sampler")] if sampler else []
        self.upsamplers, self.downsamplers = (made, []) if sampler == "up" else ([], made)

    def build(self, x_shape: Shape) -> None:
        inner = (*x_shape[:-1], self.channels)
        for number, block in enumerate(self.resnets):
            block.build(inner if number else x_shape)
        for layer in (*self.attentions, *self.upsamplers, *self.downsamplers):
            layer.build(inner)

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h', w', channels)."""
        for number, block in enumerate(self.resnets):
            x = block(x)  # (B, h, w, channels)
            if number < len(self.attentions):
                x = self.attentions[number](x)
        for layer in (*self.upsamplers, *self.downsamplers):
            x = layer(x)  # (B, h', w', channels)
        return x


MAX_PERIOD = 10_000.0
"""The longest period of a sine, in units of 2 pi (Ho et al. 2020)."""


def waves(numbers: Tensor, features: int, shift: float = 0.0, cosines_first: bool = True) -> Tensor:
    """Sines and cosines of numbers: (B,) -> (B, features) float32.

    Args:
        numbers: (B,).
        features: Number of features, which must be even.
        shift: The frequencies are ``MAX_PERIOD ** (-i / (features / 2 - shift))``.
        cosines_first: Whether the cosines precede the sines.
    """
    half = features // 2
    frequencies = np.exp(-math.log(MAX_PERIOD) * np.arange(half) / (half - shift)).astype("float32")
    angles = ops.cast(numbers, "float32")[:, None] * ops.convert_to_tensor(frequencies)  # (B, features / 2)
    both = [ops.sin(angles), ops.cos(angles)]
    return ops.concatenate(both[::-1] if cosines_first else both, axis=-1)


class Embedding(keras.layers.Layer):
    """Two dense layers (`TimestepEmbedding`, `PixArtAlphaTextProjection`).

    Args:
        units: Number of features of the output.
        activation: The activation between them.
    """

    def __init__(self, units: int, activation: Callable[[Tensor], Tensor] = ops.silu, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation
        self.linear_1, self.linear_2 = (
            keras.layers.Dense(units, dtype=self.dtype_policy, name=f"linear_{number}") for number in (1, 2)
        )

    def build(self, x_shape: Shape) -> None:
        self.linear_1.build(x_shape)
        self.linear_2.build((*x_shape[:-1], self.linear_1.units))

    def call(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., units)."""
        return self.linear_2(self.activation(self.linear_1(x)))


ACTIVATIONS: Mapping[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
    "gelu": (False, gelu),
    "gelu-approximate": (False, gelu_tanh),
    "geglu": (True, gelu),
    "swiglu": (True, ops.silu),
    "linear-silu": (False, ops.silu),
}
"""diffusers' names of activations: whether a second half of the hidden layer is a gate (Shazeer 2020), and what is
computed of the hidden layer, or of its gate."""


class FeedForward(keras.layers.Layer):
    """A hidden layer of four times the width (`FeedForward`).

    Args:
        activation: A name in `ACTIVATIONS`.
    """

    def __init__(self, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gated, self.activation = ACTIVATIONS[activation]

    def build(self, x_shape: Shape) -> None:
        width = x_shape[-1]
        assert width is not None
        hidden = 4 * width
        self.widen = keras.layers.Dense(2 * hidden if self.gated else hidden, dtype=self.dtype_policy, name="widen")
        self.narrow = keras.layers.Dense(width, dtype=self.dtype_policy, name="narrow")
        self.widen.build(x_shape)
        self.narrow.build((*x_shape[:-1], hidden))

    def call(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        y = self.widen(x)  # (B, N, 4C), or (B, N, 8C) with a gate
        if not self.gated:
            return self.narrow(self.activation(y))
        value, gate = ops.split(y, 2, axis=-1)  # (B, N, 4C) each
        return self.narrow(value * self.activation(gate))
