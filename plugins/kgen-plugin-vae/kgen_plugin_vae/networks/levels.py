"""Levels of latents: a vector for the whole image, or a map.

A level is called as ``level(state, eps[, features]) -> (state, Latent or None)``. With features, it samples the latents
from the posterior. Without, it samples them from the prior, so that u = eps.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from kgen.nn import GroupNorm, conv3x3
from kgen_plugin_vae.latents import Latent
from kgen_plugin_vae.networks.blocks import Shape

Tensor = Any
Prior = Literal["standard", "learned"]


class VectorLevel(keras.layers.Layer):
    """The first level: `size` latents for the whole image. Its input state is the embedding of the text.

    Args:
        size: Number of latents.
        prior: Prior of the latents, see `VAE`.
        grid: Shape (height, width, channels) of the output.
    """

    def __init__(self, size: int, prior: Prior, grid: tuple[int, int, int], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the latents stay in float32
        policy = self.dtype_policy
        self.grid = grid
        self.norm = GroupNorm(dtype=policy, name="norm")
        self.posterior = _dense(2 * size, policy, "posterior", kernel_initializer="zeros")
        self.prior = _dense(2 * size, policy, "prior", kernel_initializer="zeros") if prior == "learned" else None
        self.spread = _dense(grid[0] * grid[1] * grid[2], policy, "spread")
        self.start = _dense(grid[0] * grid[1] * grid[2], policy, "start")
        self.size = size

    def build(self, embedding_shape: Shape) -> None:
        height, width, channels = self.grid
        self.norm.build((None, *self.grid))
        self.posterior.build((None, height * width * channels))
        if self.prior is not None:
            self.prior.build(embedding_shape)
        self.spread.build((None, self.size))
        self.start.build(embedding_shape)

    def call(self, embedding: Tensor, eps: Tensor, features: Tensor | None = None) -> tuple[Tensor, Latent | None]:
        """(B, E), (B, size)[, (B, h, w, c)] -> (B, h, w, c), latent."""
        latent = None
        if features is not None:
            height, width, channels = self.grid
            flat = ops.reshape(ops.silu(self.norm(features)), (-1, height * width * channels))
            latent = _posterior(self.posterior(flat), eps)
        z = _latents(latent, eps, None if self.prior is None else self.prior(embedding))  # (B, size)
        return ops.reshape(self.start(embedding) + self.spread(z), (-1, *self.grid)), latent


class MapLevel(keras.layers.Layer):
    """A further level: `size` latents for each pixel of a stage. Its state is the decoder's feature map at this stage.

    Args:
        size: Number of latents per pixel.
        prior: Prior of the latents, see `VAE`.
        channels: Number of channels of the state and of the features.
    """

    def __init__(self, size: int, prior: Prior, channels: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the latents stay in float32
        policy = self.dtype_policy
        self.channels = channels
        self.norm = GroupNorm(dtype=policy, name="norm")
        self.norm_both = GroupNorm(dtype=policy, name="norm_both")
        self.hidden = conv3x3(channels, policy, "hidden")
        self.posterior = conv3x3(2 * size, policy, "posterior", kernel_initializer="zeros")
        self.prior = conv3x3(2 * size, policy, "prior", kernel_initializer="zeros") if prior == "learned" else None
        self.spread = _dense(channels, policy, "spread")
        self.size = size

    def build(self, x_shape: Shape) -> None:
        both = (*x_shape[:-1], 2 * self.channels)
        self.norm_both.build(both)
        self.hidden.build(both)
        self.posterior.build(x_shape)
        if self.prior is not None:
            self.norm.build(x_shape)
            self.prior.build(x_shape)
        self.spread.build((*x_shape[:-1], self.size))

    def call(self, x: Tensor, eps: Tensor, features: Tensor | None = None) -> tuple[Tensor, Latent | None]:
        """(B, h, w, c), (B, h, w, size)[, (B, h, w, c)] -> (B, h, w, c), latent."""
        latent = None
        if features is not None:
            both = ops.concatenate([x, ops.cast(features, x.dtype)], axis=-1)  # (B, h, w, 2c)
            hidden = ops.silu(self.hidden(ops.silu(self.norm_both(both))))  # (B, h, w, c)
            latent = _posterior(self.posterior(hidden), eps)
        z = _latents(latent, eps, None if self.prior is None else self.prior(ops.silu(self.norm(x))))
        return x + self.spread(z), latent


def _posterior(output: Tensor, eps: Tensor) -> Latent:
    shift, log_ratio = ops.split(ops.cast(output, "float32"), 2, axis=-1)
    return Latent(ops.cast(eps, "float32"), shift, soft_clamp(log_ratio))


def _latents(latent: Latent | None, eps: Tensor, prior: Tensor | None) -> Tensor:
    """Returns z, from u and the prior's mean and log-deviation, which are 0 if `prior` is None."""
    u = ops.cast(eps, "float32") if latent is None else latent.u
    if prior is None:
        return u
    mean, log_deviation = ops.split(ops.cast(prior, "float32"), 2, axis=-1)
    return mean + ops.exp(soft_clamp(log_deviation)) * u


def soft_clamp(x: Tensor, limit: float = 5.0) -> Tensor:
    """Limits x to (-limit, limit) with a gradient everywhere, as in NVAE's published code."""
    return limit * ops.tanh(x / limit)


def _dense(units: int, policy: Any, name: str, **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Dense(units, dtype=policy, name=name, **kwargs)
