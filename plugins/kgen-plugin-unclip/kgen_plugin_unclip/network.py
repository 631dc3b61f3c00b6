"""The network of the diffusion prior: a causal transformer over a text and a noisy embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Space, SpaceError
from kgen.nn import TransformerBlock, sinusoidal

Tensor = Any
Shape = tuple[int | None, ...]

LEVEL_FEATURES = 256
"""Number of sines and cosines of the noise level."""

AFTER_TEXT = 4
"""Number of positions after those of the text: text embedding, noise level, noisy embedding, query."""


@dataclass(frozen=True)
class CausalTransformer:
    """A causal transformer that denoises a vector, given a text (Ramesh et al. 2022, section 2.2).

    The sequence consists of the tokens of the text, the embedding of the text, the noise level, the noisy vector and a
    query, whose output is the prediction. A learned vector is added at each position; the query has no other input.

    Args:
        width: Dimension of a position, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of `width`.
        dropout: Dropout rate on the output of each attention and MLP, in [0, 1).
    """

    width: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 6
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} is not divisible into {self.heads} heads: change width or heads")

    def check(self, space: Space) -> None:
        """Raises SpaceError unless the latents of `space` are vectors."""
        if space.kind != "continuous" or len(space.shape) != 1:
            raise SpaceError(f"the network 'causal' works on vectors, such as embeddings of images, not on {space}")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its first call, or its `build`, creates every weight."""
        self.check(space)
        return CausalTransformerLayer(self, out_channels, name="causal")


class CausalTransformerLayer(keras.layers.Layer):
    """The transformer.

    Args:
        options: Its options.
        out_channels: Dimension of the output.
    """

    def __init__(self, options: CausalTransformer, out_channels: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the inner layers cast their inputs; the noise level stays float32
        self.options = options
        self.out_channels = out_channels
        width, hidden = options.width, int(options.width * options.mlp_ratio)
        policy = self.dtype_policy
        self.text, self.pooled, self.vector, self.level_out = (
            keras.layers.Dense(width, dtype=policy, name=name) for name in ("text", "pooled", "vector", "level_out")
        )
        self.level_in = keras.layers.Dense(width, activation="silu", dtype=policy, name="level_in")
        self.blocks = [
            TransformerBlock(options.heads, hidden, options.dropout, causal=True, dtype=policy, name=f"block{i}")
            for i in range(options.depth)
        ]
        self.norm_out = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm_out")
        self.out = keras.layers.Dense(out_channels, kernel_initializer="zeros", dtype=policy, name="out")

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        self.text.build(condition_shape["sequence"])
        self.pooled.build(condition_shape["pooled"])
        self.vector.build(x_shape)
        self.level_in.build((None, LEVEL_FEATURES))
        self.level_out.build((None, self.options.width))
        length = int(condition_shape["sequence"][1] or 0) + AFTER_TEXT
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.positions = self.add_weight(name="positions", shape=(length, self.options.width), initializer=normal)
        for layer in (*self.blocks, self.norm_out):
            layer.build((None, length, self.options.width))
        self.out.build((None, self.options.width))

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, N), (B,), condition -> (B, out_channels) float32."""
        return ops.cast(self.out(self.run(x, noise_level, condition, training)[:, -1]), "float32")

    def run(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """The outputs (B, L + 4, width) of all positions, of which the last is the query's."""
        level = self.level_out(self.level_in(sinusoidal(noise_level, LEVEL_FEATURES)))  # (B, C)
        query = ops.zeros_like(level)
        after = ops.stack([self.pooled(condition["pooled"]), level, self.vector(x), query], axis=1)  # (B, 4, C)
        y = ops.concatenate([self.text(condition["sequence"]), after], axis=1)  # (B, L + 4, C)
        y = y + ops.cast(self.positions, y.dtype)
        mask = ops.pad(ops.cast(condition["mask"], "float32"), ((0, 0), (0, AFTER_TEXT)), constant_values=1.0)
        for block in self.blocks:
            y = block(y, mask, training=training)
        return self.norm_out(y)
