"""The part of an autoencoder's loss that compares the reconstruction with the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kgen import SeedGenerator
from kgen.random import per_example
from kgen_plugin_codecs.discriminator import Discriminator, DiscriminatorNetwork, hinge
from kgen_plugin_codecs.perceptual import Perceptual, feature_distance
from kgen_plugin_codecs.reconstruction import Name, reconstruction_loss

Tensor = Any
Losses = dict[str, Tensor]

MEMORY = 0.99
"""Decay per step of the running means of the squared gradients."""

STEP = 1e-2
"""Step size, per pixel channel, of the finite difference that measures a gradient."""

MAX_WEIGHT = 1e4
"""Limit of the adaptive weight."""


class ReconstructionLoss(keras.layers.Layer):
    """The distance of pixels, with an optional perceptual and adversarial loss (Esser et al. 2021, section 3.1).

    The adaptive weight of the adversarial loss is the ratio of two gradients. The paper takes them with respect to the
    last layer. Here they are with respect to the image, and are measured without differentiation: for a direction
    v ~ N(0, I), the mean of ((f(x + h v) - f(x)) / h)^2 is the squared gradient of f. Both are running means over
    earlier steps, so the loss of an example does not depend on the rest of its batch. They start at 0, but only their
    ratio matters.

    Args:
        reconstruction: Distance of pixels, see `reconstruction_loss`.
        perceptual, discriminator: Options of the other two terms. None leaves the term out.
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
        """Compares reconstructions with images.

        Args:
            images, made: Images and reconstructions, (B, H, W, C) float32.

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
        if training and self.trainable:
            self._measure(images, ops.stop_gradient(made))
        total = total + on * (discriminator + self.discriminator.weight * weight * adversarial)
        return {"reconstruction_loss": total, **distances, "discriminator": discriminator, "adversarial": adversarial}

    def _distances(self, images: Tensor, made: Tensor) -> Losses:
        found = {"reconstruction": reconstruction_loss(self.reconstruction, images, made)}
        if self.perceptual is not None:
            self.features = self.features or self.perceptual.build()  # only training reads the network
            found["perceptual"] = feature_distance(self.features(images), self.features(made))
        return found

    def _weighted(self, distances: Losses) -> Tensor:
        if self.perceptual is None:
            return distances["reconstruction"]
        return distances["reconstruction"] + self.perceptual.weight * distances["perceptual"]

    def _adversarial(self, made: Tensor) -> Tensor:
        """Returns the adversarial loss (B,), which is low if the discriminator scores the reconstruction as real."""
        return -ops.mean(self.network.frozen(made), axis=(1, 2))

    def _measure(self, images: Tensor, made: Tensor) -> None:
        """Updates the running means with this step's squared gradients."""
        moved = made + STEP * per_example(keras.random.normal, ops.shape(made), self.seed_generator)
        functions = (lambda x: self._weighted(self._distances(images, x)), self._adversarial)
        for variable, function in zip(self.gradients, functions, strict=True):
            slope = (function(moved) - function(made)) / STEP  # (B,)
            square = ops.stop_gradient(ops.mean(ops.square(slope)))
            variable.assign(MEMORY * variable + (1.0 - MEMORY) * square)
        self.step.assign(self.step + 1.0)
