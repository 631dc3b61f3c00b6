"""The layers of diffusers' transformers of images. Their attributes have the names of its modules."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.nn import MultiHeadAttention, RematLayer
from kgen_plugin_diffusers.layers import Embedding, FeedForward, Shape, Tensor
from kgen_plugin_diffusers.transformer.architecture import Architecture, DiTArchitecture, PixArtArchitecture

WAVES = 256
"""Number of sines and cosines of a time, or of a size of the image."""

EPSILON = 1e-6
"""The number that the normalizations without weights add to the variance."""

MODULATIONS = 6
"""A shift, a scale and a gate of the attention, and of the hidden layer."""


def layer_norm(policy: Any, name: str, epsilon: float = EPSILON, affine: bool = False) -> keras.layers.Layer:
    """A layer normalization, with or without weights."""
    return keras.layers.LayerNormalization(epsilon=epsilon, center=affine, scale=affine, dtype=policy, name=name)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(B, N, D), and (B, 1, D) twice -> (B, N, D)."""
    return x * (1.0 + scale) + shift


class TimeAndLabel(keras.layers.Layer):
    """The sum of the embeddings of the time and of the class (`CombinedTimestepLabelEmbeddings`).

    Args:
        model: The configuration.
    """

    def __init__(self, model: DiTArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.timestep_embedder = Embedding(model.width, dtype=policy, name="timestep_embedder")
        self.class_embedder = keras.layers.Embedding(
            model.classes + 1, model.width, dtype=policy, name="class_embedder"
        )

    def build(self, features_shape: Shape, label_shape: Shape) -> None:
        self.timestep_embedder.build(features_shape)
        self.class_embedder.build((None,))

    def call(self, features: Tensor, label: Tensor) -> Tensor:
        """Sines and cosines of the time (B, F), and a one-hot class (B, classes + 1) -> (B, D)."""
        return self.timestep_embedder(features) + ops.matmul(label, self.class_embedder.embeddings)


class AdaNormZero(keras.layers.Layer):
    """A normalization that the time and the class modulate (`AdaLayerNormZero`; Peebles and Xie 2023, figure 3).

    Args:
        model: The configuration.
    """

    def __init__(self, model: DiTArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.emb = TimeAndLabel(model, dtype=policy, name="emb")
        self.linear = keras.layers.Dense(MODULATIONS * model.width, dtype=policy, name="linear")
        self.norm = layer_norm(policy, "norm")

    def build(self, x_shape: Shape, features_shape: Shape, label_shape: Shape) -> None:
        self.emb.build(features_shape, label_shape)
        self.linear.build((None, x_shape[-1]))
        self.norm.build(x_shape)

    def call(self, x: Tensor, features: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D), (B, F), (B, classes + 1) -> (B, N, D), and gate, shift, scale and gate (B, 1, D) of what follows.

        The first gate is that of the attention, and the others belong to the hidden layer.
        """
        modulations = ops.expand_dims(self.linear(ops.silu(self.emb(features, label))), 1)  # (B, 1, 6D)
        shift, scale, *others = ops.split(modulations, MODULATIONS, axis=-1)  # (B, 1, D) each
        return modulated(self.norm(x), shift, scale), others


class DiTBlock(RematLayer):
    """A block of DiT (`BasicTransformerBlock` with "ada_norm_zero"). Each has embeddings of its own.

    Args:
        model: The configuration.
    """

    def __init__(self, model: DiTArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm1 = AdaNormZero(model, dtype=policy, name="norm1")
        self.attn1 = _attention(model, policy, "attn1")
        self.norm3 = layer_norm(policy, "norm3", model.epsilon, model.affine)
        self.ff = FeedForward(model.activation, dtype=policy, name="ff")

    def build(self, x_shape: Shape, features_shape: Shape, label_shape: Shape) -> None:
        self.norm1.build(x_shape, features_shape, label_shape)
        for layer in (self.attn1, self.norm3, self.ff):
            layer.build(x_shape)

    def call(self, x: Tensor, features: Tensor, label: Tensor) -> Tensor:
        """(B, N, D), (B, F), (B, classes + 1) -> (B, N, D)."""
        y, (attention_gate, shift, scale, gate) = self.norm1(x, features, label)
        x = x + attention_gate * self.attn1(y)
        return x + gate * self.ff(modulated(self.norm3(x), shift, scale))


class TimeAndSize(keras.layers.Layer):
    """The embedding of the time, and of the size of the image if the model reads it.

    It is `PixArtAlphaCombinedTimestepSizeEmbeddings`.

    Args:
        model: The configuration.
    """

    def __init__(self, model: PixArtArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy, part = self.dtype_policy, model.width // 3
        self.sizes = model.sizes
        self.timestep_embedder = Embedding(model.width, dtype=policy, name="timestep_embedder")
        if model.sizes:
            self.resolution_embedder = Embedding(part, dtype=policy, name="resolution_embedder")
            self.aspect_ratio_embedder = Embedding(part, dtype=policy, name="aspect_ratio_embedder")

    def build(self, features_shape: Shape) -> None:
        self.timestep_embedder.build(features_shape)
        if self.sizes:
            self.resolution_embedder.build(features_shape)
            self.aspect_ratio_embedder.build(features_shape)

    def call(self, features: Tensor, sizes: Tensor) -> Tensor:
        """Sines and cosines of the time (B, F), and of height, width and aspect ratio (3, F) -> (B, D)."""
        embedding = self.timestep_embedder(features)  # (B, D)
        if not self.sizes:
            return embedding
        parts = [self.resolution_embedder(sizes[:2]), self.aspect_ratio_embedder(sizes[2:])]  # (2, D/3), (1, D/3)
        return embedding + ops.reshape(ops.concatenate(parts, axis=0), (1, -1))


class AdaNormSingle(keras.layers.Layer):
    """The modulations that all blocks share (`AdaLayerNormSingle`; Chen et al. 2024, section 2.3).

    Args:
        model: The configuration.
    """

    def __init__(self, model: PixArtArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = model.width
        self.emb = TimeAndSize(model, dtype=self.dtype_policy, name="emb")
        self.linear = keras.layers.Dense(MODULATIONS * model.width, dtype=self.dtype_policy, name="linear")

    def build(self, features_shape: Shape) -> None:
        self.emb.build(features_shape)
        self.linear.build((None, self.width))

    def call(self, features: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F), (3, F) -> the modulations (B, 6, D), and the embedding (B, D)."""
        embedding = self.emb(features, sizes)
        return ops.reshape(self.linear(ops.silu(embedding)), (-1, MODULATIONS, self.width)), embedding


class PixArtBlock(RematLayer):
    """A block of PixArt (`BasicTransformerBlock` with "ada_norm_single").

    The attention to the text has no normalization before it.

    Args:
        model: The configuration.
    """

    def __init__(self, model: PixArtArchitecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm1, self.norm2 = (layer_norm(policy, f"norm{i}", model.epsilon, model.affine) for i in (1, 2))
        self.attn1, self.attn2 = (_attention(model, policy, f"attn{i}") for i in (1, 2))
        self.ff = FeedForward(model.activation, dtype=policy, name="ff")

    def build(self, x_shape: Shape, text_shape: Shape) -> None:
        for layer in (self.norm1, self.norm2, self.attn1, self.ff):
            layer.build(x_shape)
        self.attn2.build(x_shape, text_shape)
        self.scale_shift_table = self.add_weight(name="scale_shift_table", shape=(MODULATIONS, x_shape[-1]))

    def call(self, x: Tensor, modulations: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), (B, 6, D), (B, L, D'), (B, L) -> (B, N, D)."""
        own = self.scale_shift_table + modulations  # (B, 6, D)
        shift1, scale1, gate1, shift2, scale2, gate2 = ops.split(own, MODULATIONS, axis=1)  # (B, 1, D) each
        x = x + gate1 * self.attn1(modulated(self.norm1(x), shift1, scale1))
        x = x + self.attn2(x, text, mask)
        return x + gate2 * self.ff(modulated(self.norm2(x), shift2, scale2))


def _attention(model: Architecture, policy: Any, name: str) -> MultiHeadAttention:
    return MultiHeadAttention(model.heads, use_bias=model.bias, dtype=policy, name=name)
