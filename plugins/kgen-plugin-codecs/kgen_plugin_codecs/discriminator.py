"""A patch discriminator, which scores how real each part of an image looks (PatchGAN, Isola et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen.nn import GroupNorm

Tensor = Any
Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Discriminator:
    """Options of the adversarial loss: the discriminator is trained together with the autoencoder.

    Args:
        weight: Weight of the adversarial loss. It multiplies the adaptive weight, which makes the gradient of this loss
            as large as that of the reconstruction (Esser et al. 2021, equation 7).
        start: Number of training steps before the adversarial loss and the discriminator's training start.
        width: Number of channels of the discriminator's first convolution.
        levels: Number of convolutions that halve height and width.
    """

    weight: Annotated[float, Field(gt=0)] = 0.5
    start: NonNegativeInt = 1000
    width: Annotated[int, Field(ge=4)] = 32
    levels: PositiveInt = 3


class DiscriminatorNetwork(keras.layers.Layer):
    """Maps images to a score per patch, high for real ones: (B, H, W, C) -> (B, h, w)."""

    def __init__(self, width: int, levels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.convs = [_conv(width * 2 ** min(i, 3), policy, f"conv{i}", strides=2) for i in range(levels)]
        self.norms = [GroupNorm(dtype=policy, name=f"norm{i}") for i in range(1, levels)]
        self.score = _conv(1, policy, "score")

    def build(self, x_shape: Shape) -> None:
        shape = x_shape
        for i, conv in enumerate(self.convs):
            conv.build(shape)
            shape = (None, None, None, conv.filters)
            if i:
                self.norms[i - 1].build(shape)
        self.score.build(shape)

    def call(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = ops.leaky_relu(self.norms[i - 1](x) if i else x, 0.2)
        return ops.cast(self.score(x), "float32")[..., 0]

    def frozen(self, x: Tensor) -> Tensor:
        """Returns the scores. The gradient reaches the images, but not the weights."""
        trained, others = (
            [ops.stop_gradient(variable.value) for variable in variables]
            for variables in (self.trainable_variables, self.non_trainable_variables)
        )
        return self.stateless_call(trained, others, x)[0]


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the discriminator's hinge loss (B,) of scores (B, h, w) (Lim and Ye 2017)."""
    return 0.5 * ops.mean(ops.relu(1.0 - real) + ops.relu(1.0 + fake), axis=(1, 2))


def _conv(channels: int, policy: Any, name: str, **options: Any) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(channels, 4, padding="same", dtype=policy, name=name, **options)
