"""The decoder: an autoencoder that turns each patch of an image into a short vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from kgen import Decoder, Space, SpaceError
from pydantic import PositiveInt

Tensor = Any
Condition = dict[str, Tensor]

MIN_DEVIATION = 1e-3
"""Smallest standard deviation that latents are divided by."""


class Patches(Decoder):
    """An autoencoder of patches. It is trained in a separate stage, before the generator, on its squared error.

    The encoding is linear; the decoding has one hidden layer. After the training, the latents are shifted and scaled to
    mean 0 and variance 1.

    Args:
        patch: Height and width of a patch in pixels.
        channels: Number of channels of the latents: one vector of this dimension per patch.
        width: Width of the hidden layer.

    Raises:
        SpaceError: `patch` does not divide the height and width of the images.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        patch: PositiveInt = 4,
        channels: PositiveInt = 8,
        width: PositiveInt = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.patch = patch
        self.channels = channels
        self.width = width
        self.check_space(image_space)
        self.down = keras.layers.Conv2D(channels, patch, strides=patch)
        self.hidden = keras.layers.Dense(width, activation="gelu")
        self.up = keras.layers.Conv2DTranspose(image_space.shape[-1], patch, strides=patch)

    def check_space(self, image_space: Space) -> None:
        height, width, _ = image_space.shape
        if height % self.patch or width % self.patch:
            raise SpaceError(f"patch: {self.patch} does not divide images of {height}x{width} pixels")

    def build(self, input_shape: None = None) -> None:
        height, width, channels = self.latent_space.shape
        self.down.build((None, *self.image_space.shape))
        self.hidden.build((None, height, width, channels))
        self.up.build((None, height, width, self.width))
        self.mean = self.add_weight(shape=(channels,), initializer="zeros", trainable=False, name="mean")
        self.deviation = self.add_weight(shape=(channels,), initializer="ones", trainable=False, name="deviation")

    @property
    def latent_space(self) -> Space:
        height, width, _ = self.image_space.shape
        return Space("continuous", (height // self.patch, width // self.patch, self.channels), bounded=False)

    def encode(self, images: Tensor) -> Tensor:
        latent = ops.cast(self.down(images), "float32")  # (B, H / patch, W / patch, channels)
        return (latent - self.mean) / self.deviation

    def decode(self, latent: Tensor, condition: Condition, noise: dict[str, Tensor]) -> Tensor:
        return self.up(self.hidden(latent * self.deviation + self.mean))  # (B, H, W, C)

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean squared error of the reconstruction."""
        error = ops.cast(self.decode(self.encode(images), condition, {}), "float32") - images
        return {"loss": ops.mean(ops.square(error), axis=(1, 2, 3))}  # (B,)

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        mean, deviation = (ops.convert_to_numpy(weight) for weight in (self.mean, self.deviation))
        count, total, squares = 0, np.zeros(self.channels), np.zeros(self.channels)
        for batch in batches:
            images = ops.cast(batch, "float32") / 127.5 - 1.0
            latents = ops.convert_to_numpy(self.encode(images)).astype(np.float64) * deviation + mean
            rows = latents.reshape(-1, self.channels)
            count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0)
        variance = np.maximum(squares / count - np.square(total / count), MIN_DEVIATION**2)
        self.mean.assign(total / count)
        self.deviation.assign(np.sqrt(variance))
