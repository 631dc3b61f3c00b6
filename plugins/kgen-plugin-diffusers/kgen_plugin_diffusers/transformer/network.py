"""diffusers' transformers of images: DiT, which reads a class, and PixArt, which reads a text."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kgen import SpaceError
from kgen.nn import depth_to_space, gelu_tanh, grid_positions
from kgen_plugin_diffusers.layers import Embedding, Shape, Tensor, waves
from kgen_plugin_diffusers.transformer.architecture import Architecture, DiTArchitecture, PixArtArchitecture
from kgen_plugin_diffusers.transformer.layers import (
    WAVES,
    AdaNormSingle,
    DiTBlock,
    PixArtBlock,
    layer_norm,
    modulated,
)

_positions = functools.lru_cache(maxsize=64)(grid_positions)


class Patches(keras.layers.Layer):
    """Squares of positions as tokens, with embeddings of their places (`PatchEmbed`).

    Args:
        model: The configuration.
    """

    def __init__(self, model: Architecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.proj = keras.layers.Conv2D(
            model.width, model.patch, strides=model.patch, dtype=self.dtype_policy, name="proj"
        )

    def build(self, x_shape: Shape) -> None:
        self.proj.build((None, None, None, x_shape[-1]))

    def call(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, N, D), with N = H W / patch^2."""
        model, y = self.model, self.proj(x)  # (B, h, w, D)
        rows, columns = y.shape[1:3]
        spacing = tuple(model.side / (count * model.scale) for count in (rows, columns))
        positions = _positions(rows, columns, model.width, spacing)  # (N, D)
        y = ops.reshape(y, (-1, rows * columns, model.width))
        return y + ops.cast(positions, y.dtype)


class DiTNetwork(keras.layers.Layer):
    """The layers of `DiTTransformer2DModel` (Peebles and Xie 2023).

    Args:
        model: The configuration.
    """

    def __init__(self, model: DiTArchitecture, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # inner layers cast their inputs, but not the time
        policy, self.model = self.dtype_policy, model
        self.pos_embed = Patches(model, dtype=policy, name="pos_embed")
        self.transformer_blocks = [DiTBlock(model, dtype=policy, name=f"block{i}") for i in range(model.depth)]
        self.norm_out = layer_norm(policy, "norm_out")
        self.proj_out_1 = keras.layers.Dense(2 * model.width, dtype=policy, name="proj_out_1")
        self.proj_out_2 = keras.layers.Dense(model.patch**2 * model.out_channels, dtype=policy, name="proj_out_2")

    def check_condition(self, pooled: int) -> None:
        """Raises SpaceError if the pooled condition, of a given dimension, is not a class of the model."""
        if pooled != self.model.classes + 1:
            raise SpaceError(
                f"this transformer reads one of {self.model.classes} classes, and not a condition of dimension "
                f"{pooled}: choose the encoder 'diffusers/class-label' with the same folder"
            )

    def build(self, x_shape: Shape, pooled_shape: Shape) -> None:
        tokens, width = (None, None, self.model.width), (None, self.model.width)
        self.pos_embed.build(x_shape)
        for block in self.transformer_blocks:
            block.build(tokens, (None, WAVES), pooled_shape)
        self.norm_out.build(tokens)
        self.proj_out_1.build(width)
        self.proj_out_2.build(tokens)

    def call(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Computes the model.

        Args:
            x: (B, H, W, C).
            time: (B,), the number of the step, 0 to 999.
            condition: "pooled" (B, classes + 1) is 1 for the class, and 0 for all others. The last one is "no class".

        Returns:
            (B, H, W, out_channels) float32.
        """
        grid, label = (x.shape[1] // self.model.patch, x.shape[2] // self.model.patch), condition["pooled"]
        features = waves(time, WAVES, shift=1.0)  # (B, F)
        y = self.pos_embed(x)  # (B, N, D)
        for block in self.transformer_blocks:
            y = block(y, features, label)
        embedding = self.transformer_blocks[0].norm1.emb(features, label)  # (B, D)
        modulations = ops.expand_dims(self.proj_out_1(ops.silu(embedding)), 1)  # (B, 1, 2D)
        y = self.proj_out_2(modulated(self.norm_out(y), *ops.split(modulations, 2, axis=-1)))  # (B, N, p*p*C)
        return _as_image(y, grid, self.model.patch)


class PixArtNetwork(keras.layers.Layer):
    """The layers of `PixArtTransformer2DModel` (Chen et al. 2024).

    Args:
        model: The configuration.
        factor: Height and width of an image over those of its latent, for the embedding of the size.
    """

    def __init__(self, model: PixArtArchitecture, factor: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # inner layers cast their inputs, but not the time
        policy, self.model, self.factor = self.dtype_policy, model, factor
        self.pos_embed = Patches(model, dtype=policy, name="pos_embed")
        self.adaln_single = AdaNormSingle(model, dtype=policy, name="adaln_single")
        self.caption_projection: Embedding | None = None
        if model.projection:
            self.caption_projection = Embedding(model.width, gelu_tanh, dtype=policy, name="caption_projection")
        self.transformer_blocks = [PixArtBlock(model, dtype=policy, name=f"block{i}") for i in range(model.depth)]
        self.norm_out = layer_norm(policy, "norm_out")
        self.proj_out = keras.layers.Dense(model.patch**2 * model.out_channels, dtype=policy, name="proj_out")

    def check_condition(self, text: int) -> None:
        """Raises SpaceError if the text's sequence has another dimension than that of the model."""
        if text != self.model.text:
            raise SpaceError(
                f"this transformer reads conditions of dimension {self.model.text}, not {text}: choose the encoder "
                "that the model was trained with"
            )

    def build(self, x_shape: Shape, text_shape: Shape) -> None:
        tokens, text = (None, None, self.model.width), (None, None, text_shape[-1])
        self.pos_embed.build(x_shape)
        self.adaln_single.build((None, WAVES))
        if self.caption_projection is not None:
            self.caption_projection.build(text)
            text = tokens
        for block in self.transformer_blocks:
            block.build(tokens, text)
        self.norm_out.build(tokens)
        self.proj_out.build(tokens)
        self.scale_shift_table = self.add_weight(name="scale_shift_table", shape=(2, self.model.width))

    def call(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Computes the model.

        Args:
            x: (B, H, W, C).
            time: (B,), the number of the step, 0 to 999.
            condition: "sequence" (B, L, D'), to which the network attends where "mask" (B, L) is 1.

        Returns:
            (B, H, W, out_channels) float32.
        """
        _, height, width, _ = x.shape
        grid, text = (height // self.model.patch, width // self.model.patch), condition["sequence"]
        sizes = ops.convert_to_tensor([float(height * self.factor), float(width * self.factor), height / width])
        modulations, embedding = self.adaln_single(waves(time, WAVES), waves(sizes, WAVES))  # (B, 6, D), (B, D)
        if self.caption_projection is not None:
            text = self.caption_projection(text)  # (B, L, D)
        y = self.pos_embed(x)  # (B, N, D)
        for block in self.transformer_blocks:
            y = block(y, modulations, text, condition["mask"])
        table = ops.cast(self.scale_shift_table, embedding.dtype) + ops.expand_dims(embedding, 1)  # (B, 2, D)
        y = self.proj_out(modulated(self.norm_out(y), *ops.split(table, 2, axis=1)))  # (B, N, p*p*C)
        return _as_image(y, grid, self.model.patch)


def _as_image(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """(B, N, p*p*C) -> (B, H, W, C) float32."""
    y = ops.reshape(ops.cast(tokens, "float32"), (-1, *grid, tokens.shape[-1]))  # (B, h, w, p*p*C)
    return depth_to_space(y, patch)
