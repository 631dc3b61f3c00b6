"""Super-resolution by regression, which predicts the large image that is best on average."""

from __future__ import annotations

from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import Space
from kgen.nn import depth_to_space
from kgen_plugin_superres.resize import enlarge
from kgen_plugin_superres.small_image import Factor, SmallImage

Tensor = Any
Shape = tuple[int | None, ...]


class Regression(SmallImage):
    """Enlarges by residual convolutions on the small image (EDSR, Lim et al. 2017), trained on absolute differences.

    The convolutions work at the small size. Then a pixel shuffle per prime factor enlarges their output (Shi et al.
    2016), which is added to the bicubic interpolation.

    Args:
        factor: Factor of height and width.
        width: Number of channels of the convolutions.
        blocks: Number of residual blocks, of two convolutions each.

    Raises:
        SpaceError: See `SmallImage`.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        factor: Factor = 4,
        width: Annotated[int, Field(ge=4)] = 64,
        blocks: PositiveInt = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, factor=factor, **kwargs)
        self.width = width
        self.blocks = blocks
        self.network = Residual(factor, width, blocks, image_space.shape[-1], dtype=self.dtype_policy, name="network")

    def build(self, input_shape: None = None) -> None:
        self.network.build((None, *self.latent_space.shape))

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the mean absolute difference between the enlarged small image and the image."""
        images = ops.cast(images, "float32")
        return {"loss": ops.mean(ops.abs(self._enlarged(self.encode(images)) - images), axis=(1, 2, 3))}

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return self._enlarged(latent)

    def _enlarged(self, small: Tensor) -> Tensor:
        return enlarge(small, self.factor) + self.network(small)


class Residual(keras.layers.Layer):
    """Predicts the residual of the interpolation: (B, h, w, C) -> (B, h * factor, w * factor, C) float32."""

    def __init__(self, factor: int, width: int, blocks: int, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.primes = prime_factors(factor)
        self.width, self.channels = width, channels
        self.conv_in = self._conv(width, "conv_in")
        self.pairs = [
            (self._conv(width, f"block{i}_in"), self._conv(width, f"block{i}_out", kernel_initializer="zeros"))
            for i in range(blocks)
        ]
        self.body_out = self._conv(width, "body_out")
        self.shuffles = [self._conv(width * p**2, f"shuffle{i}") for i, p in enumerate(self.primes)]
        self.conv_out = self._conv(channels, "conv_out", kernel_initializer="zeros")

    def _conv(self, channels: int, name: str, **options: Any) -> keras.layers.Layer:
        return keras.layers.Conv2D(channels, 3, padding="same", dtype=self.dtype_policy, name=name, **options)

    def build(self, x_shape: Shape) -> None:
        inner = (None, None, None, self.width)
        self.conv_in.build(x_shape)
        for layer in (*(layer for pair in self.pairs for layer in pair), self.body_out, *self.shuffles, self.conv_out):
            layer.build(inner)

    def call(self, x: Tensor) -> Tensor:
        x = first = self.conv_in(x)  # (B, h, w, width)
        for conv_in, conv_out in self.pairs:
            x = x + conv_out(ops.relu(conv_in(x)))
        x = first + self.body_out(x)
        for prime, conv in zip(self.primes, self.shuffles, strict=True):
            x = depth_to_space(conv(x), prime)  # (B, h * prime, w * prime, width)
        return ops.cast(self.conv_out(x), "float32")


def prime_factors(number: int) -> list[int]:
    """Returns the prime factors of a number of at least 2, in ascending order: 12 -> [2, 2, 3]."""
    found, prime = [], 2
    while number > 1:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime += 1
    return found
