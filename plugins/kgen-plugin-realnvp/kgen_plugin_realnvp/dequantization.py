"""Dequantization: noise between 8-bit intensities, which gives images a density.

A dequantizer is a Keras layer, called as ``u, log_density = dequantizer(levels, noise, condition)``:
    levels: (B, H, W, C) intensities, 0 to 255.
    noise: (B, H, W, C), with the distribution that its attribute `noise` names, "uniform" or "normal".
u is in [0, 1), and log_density (B,) is its log-density in nats. E[log p(levels + u) - log q(u)] is at most
log P(levels) (Theis et al. 2016; Ho et al. 2019, equation 12), so a flow of dequantized images gives a lower bound of
their log-probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from kgen_plugin_realnvp.bijections import AffineCoupling, Chain, Squeeze, Unsqueeze
from kgen_plugin_realnvp.bijections.squeeze import squeeze
from kgen_plugin_realnvp.masks import halves, squeezed_checkerboard
from kgen_plugin_realnvp.networks import ConvolutionalNetwork

Tensor = Any
Shape = tuple[int | None, ...]
Name = Literal["uniform", "variational", "none"]

LARGEST_BELOW_1 = 1.0 - 2.0**-24
"""The largest float32 below 1."""


class UniformDequantizer(keras.layers.Layer):
    """u is the noise itself (Uria et al. 2013)."""

    noise: ClassVar = "uniform"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        pass

    def call(self, levels: Tensor, noise: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return noise, ops.sum(ops.zeros_like(noise), axis=(1, 2, 3))


class VariationalDequantizer(keras.layers.Layer):
    """A small flow, conditioned on the image, maps the noise to u (Ho et al. 2019, section 3.1).

    The flow has two pairs of couplings over squeezed pixels, and a sigmoid. It can learn a narrow q where the edges of
    a uniform distribution would be hard for the flow of the image.

    Args:
        width: Number of channels of the couplings' networks, a multiple of 4.
        bound: Largest absolute logarithm of a scale, see `AffineCoupling`.
    """

    noise: ClassVar = "normal"

    def __init__(self, width: int = 32, bound: float = 2.0, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.width = width
        self.bound = bound

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        _, height, width, channels = x_shape
        self.factor = 2 if height % 2 == 0 and width % 2 == 0 else 1
        shape = (height // self.factor, width // self.factor, channels * self.factor**2)
        steps: list[Any] = [Squeeze(self.factor, name="squeeze")]
        masks = [squeezed_checkerboard(*shape, self.factor), halves(*shape)]
        masks = [mask for mask in masks if mask.min() < mask.max()]
        for i, mask in enumerate(mask for pair in masks for mask in (pair, 1.0 - pair)):
            network = ConvolutionalNetwork(2 * shape[-1], self.width, blocks=1, image=True, name="network")
            steps.append(AffineCoupling(mask, network, self.bound, name=f"coupling{i}"))
        self.flow = Chain([*steps, Unsqueeze(self.factor, name="unsqueeze")], name="flow")
        self.flow.build(x_shape, {**condition_shape, "image": (None, *shape)})

    def call(self, levels: Tensor, noise: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        image = squeeze(levels / 127.5 - 1.0, self.factor)
        y, log_det = self.flow(noise, {**condition, "image": image})
        # du/dy = sigmoid(y) sigmoid(-y)
        log_det = log_det + ops.sum(ops.log_sigmoid(y) + ops.log_sigmoid(-y), axis=(1, 2, 3))
        return ops.minimum(ops.sigmoid(y), LARGEST_BELOW_1), normal_log_density(noise) - log_det


def normal_log_density(x: Tensor) -> Tensor:
    """Returns the log-density (B,) of x (B, H, W, C) under a standard normal distribution, in nats."""
    return ops.sum(-0.5 * ops.square(x) - 0.9189385332046727, axis=(1, 2, 3))  # log sqrt(2 pi)
