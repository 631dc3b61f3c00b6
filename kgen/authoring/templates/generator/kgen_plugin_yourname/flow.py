"""The generator: a flow from noise to latents, along straight paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from kgen import ConditionSpace, Generator, Guidance, NoiseSpec, SeedGenerator, Space, Steps, fori_loop, is_static
from kgen.nn import sinusoidal
from pydantic import PositiveInt

Tensor = Any
Condition = dict[str, Tensor]

TIME_FEATURES = 64
"""Number of features of the time."""


class Flow(Generator):
    """A rectified flow (Liu et al. 2023, equation 1), whose network is a multilayer perceptron.

    Between noise z and a latent x, the path is (1 - t) z + t x, with the velocity x - z. The network learns the mean
    velocity at a point, given the time and the condition. Sampling follows it from t = 0 to t = 1.

    Args:
        width: Width of the hidden layers.
        depth: Number of hidden layers.
    """

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        width: PositiveInt = 256,
        depth: PositiveInt = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.width = width
        self.depth = depth
        self.seed_generator = SeedGenerator()
        self.inputs = [keras.layers.Dense(width) for _ in range(3)]
        self.hidden = [keras.layers.Dense(width, activation="silu") for _ in range(depth)]
        self.output_layer = keras.layers.Dense(space.size, dtype="float32")

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The predicted velocity.

        Args:
            x: Points on the paths, (B, *space.shape).
            t: Times (B,), from 0 (noise) to 1 (latents).
            condition: The encoder's output.

        Returns:
            (B, *space.shape) float32.
        """
        flat = ops.reshape(x, (-1, self.space.size))  # (B, size)
        features = (flat, sinusoidal(1000.0 * t, TIME_FEATURES), condition["pooled"])
        h = sum(layer(feature) for layer, feature in zip(self.inputs, features, strict=True))  # (B, width)
        for layer in self.hidden:
            h = h + layer(h)
        return ops.reshape(self.output_layer(h), (-1, *self.space.shape))

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean squared error of the predicted velocity at one time per example."""
        t = keras.random.uniform(ops.shape(x)[:1], seed=self.seed_generator)  # (B,)
        noise = keras.random.normal(ops.shape(x), seed=self.seed_generator)
        share = ops.reshape(t, (-1, *[1] * len(self.space.shape)))
        error = self.velocity((1.0 - share) * noise + share * x, t, condition) - (x - noise)
        return {"loss": ops.mean(ops.square(ops.reshape(error, (-1, self.space.size))), axis=1)}  # (B,)

    def noise_spec(self, **options: Any) -> Mapping[str, NoiseSpec]:
        return {"start": NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        steps: Steps = 20,
        guidance: Guidance = 1.0,
    ) -> Tensor:
        """Follows the velocity in `steps` Euler steps, with classifier-free guidance (Ho and Salimans 2022)."""

        def step(i: Tensor, x: Tensor) -> Tensor:
            t = ops.cast(i, "float32") / steps * ops.ones(ops.shape(x)[:1])  # (B,)
            velocity = self.velocity(x, t, condition)
            if not is_static(guidance, 1.0):
                without = self.velocity(x, t, null_condition)
                velocity = without + guidance * (velocity - without)
            return x + velocity / steps

        return fori_loop(0, steps, step, noise["start"])
