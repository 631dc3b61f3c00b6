"""The part of an autoencoder's loss that compares what it makes with the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kgen import SeedGenerator
from kgen_plugin_codecs.discriminator import Discriminator, DiscriminatorNetwork, hinge
from kgen_plugin_codecs.perceptual import Perceptual, feature_distance
from kgen_plugin_codecs.reconstruction import Name, reconstruction_loss

Tensor = Any
Losses = dict[str, Tensor]

MEMORY = 0.99
"""Share of the past in the running means of the squared gradients."""

STEP = 1e-2
"""How far apart the images are between which a gradient is measured, in each number."""

MAX_WEIGHT = 1e4
"""Limit of the adaptive weight."""


class ReconstructionLoss(keras.layers.Layer):
    """The distance of pixels, and if asked for of features, and an adversarial loss (Esser et al. 2021, section 3.1).

    The adaptive weight of the adversarial loss is there the ratio of two gradients with respect to the last layer; here
    with respect to the image, for which one need not differentiate within the loss: for a direction v ~ N(0, I), the
    mean of ((f(x + h v) - f(x)) / h)^2 is the squared gradient of f. Both are running means over the steps before, so
    that no example's loss depends on the others of its batch; they begin at 0, but only their ratio counts.

    Args:
        reconstruction: See `reconstruction_loss`.
        perceptual, discriminator: The other two terms; None: none.
    """

    def __init__(
        self, reconstruction: Name, perceptual: Perceptual | None, discriminator: Discriminator | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.features: Callable[[Tensor], list[Tensor]] | None = None
        if discriminator is not None:
            self.network = DiscriminatorNetwork(
                discriminator.width, discriminator.levels, dtype=self.dtype_policy, name="discriminator"
            )
            self.seed_generator = SeedGenerator()

    def build(self, images_shape: tuple[int | None, ...], made_shape: tuple[int | None, ...]) -> None:
        if self.discriminator is not None:
            self.network.build(images_shape)
            names = ("step", "reconstruction_gradient", "adversarial_gradient")
            self.step, *self.gradients = (
                self.add_weight(name=name, shape=(), initializer="zeros", trainable=False, aggregation="mean")
                for name in names
            )

    def call(self, images: Tensor, made: Tensor, training: bool = False) -> Losses:
        """Compares.

        Args:
            images, made: (B, H, W, C) float32.

        Returns:
            (B,) each: "reconstruction_loss", the weighted sum, and its terms "reconstruction", "perceptual",
            "discriminator" and "adversarial".
        """
        distances = self._distances(images, made)
        total = self._weighted(distances)
        if self.discriminator is None:
            return {"reconstruction_loss": total, **distances}
        on = ops.cast(self.step >= self.discriminator.start, "float32")
        weight = ops.minimum(ops.sqrt(self.gradients[0] / (self.gradients[1] + 1e-12)), MAX_WEIGHT)
        discriminator = hinge(self.network(images), self.network(ops.stop_gradient(made)))
        adversarial = self._adversarial(made)
        if training:
            self._measure(images, ops.stop_gradient(made))
        total = total + on * (discriminator + self.discriminator.weight * weight * adversarial)
        return {"reconstruction_loss": total, **distances, "discriminator": discriminator, "adversarial": adversarial}

    def _distances(self, images: Tensor, made: Tensor) -> Losses:
        found = {"reconstruction": reconstruction_loss(self.reconstruction, images, made)}
        if self.perceptual is not None:
            self.features = self.features or self.perceptual.build()  # read where it is needed: not to draw
            found["perceptual"] = feature_distance(self.features(images), self.features(made))
        return found

    def _weighted(self, distances: Losses) -> Tensor:
        if self.perceptual is None:
            return distances["reconstruction"]
        return distances["reconstruction"] + self.perceptual.weight * distances["perceptual"]

    def _adversarial(self, made: Tensor) -> Tensor:
        """Low where the discriminator finds what was made real: (B,)."""
        return -ops.mean(self.network.frozen(made), axis=(1, 2))

    def _measure(self, images: Tensor, made: Tensor) -> None:
        """Takes this step's squared gradients into the running means."""
        moved = made + STEP * keras.random.normal(ops.shape(made), seed=self.seed_generator)
        functions = (lambda x: self._weighted(self._distances(images, x)), self._adversarial)
        for variable, function in zip(self.gradients, functions, strict=True):
            slope = (function(moved) - function(made)) / STEP  # (B,)
            square = ops.stop_gradient(ops.mean(ops.square(slope)))
            variable.assign(MEMORY * variable + (1.0 - MEMORY) * square)
        self.step.assign(self.step + 1.0)
