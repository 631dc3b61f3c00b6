"""Decoders whose tokens are pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from keras import ops
from pydantic import Field
from scipy.cluster.vq import kmeans2

from kgen import DataError, Decoder, Space

Tensor = Any

MAX_PIXELS = 100_000
"""Maximum number of pixels that are clustered for a palette."""


class PixelTokens(Decoder):
    """Turns each value of an image, from 0 to 255, into a token (van den Oord et al. 2016).

    The decoder is lossless: the likelihood of the tokens is that of the 8-bit image.
    """

    lossless = True

    @property
    def latent_space(self) -> Space:
        *size, channels = self.image_space.shape
        return Space("tokens", (*size, channels) if channels > 1 else tuple(size), vocabulary=256)

    def encode(self, images: Tensor) -> Tensor:
        tokens = ops.cast(ops.round((ops.cast(images, "float32") + 1.0) * 127.5), "int32")
        return ops.reshape(ops.clip(tokens, 0, 255), (-1, *self.latent_space.shape))

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return ops.reshape(ops.cast(latent, "float32") / 127.5 - 1.0, (-1, *self.image_space.shape))


class PaletteTokens(Decoder):
    """Turns each pixel into the nearest color of a palette, as in Image GPT. k-means finds it, and training refines it.

    Args:
        colors: Number of colors of the palette.
    """

    renamed: ClassVar[Mapping[str, str]] = {"colours": "colors"}

    def __init__(
        self, image_space: Space, *, colors: Annotated[int, Field(ge=2, le=65536)] = 64, **kwargs: Any
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.colors = colors

    @property
    def latent_space(self) -> Space:
        return Space("tokens", self.image_space.shape[:-1], vocabulary=self.colors)

    def build(self, input_shape: None = None) -> None:
        self.palette = self.add_weight(
            name="palette", shape=(self.colors, self.image_space.shape[-1]), initializer="glorot_uniform"
        )

    def initialize(self, batches: Iterable[np.ndarray]) -> None:
        """Clusters the pixels into a palette. Raises DataError if the images have fewer distinct colors than that."""
        channels, found, count = self.image_space.shape[-1], [], 0
        for batch in batches:
            found.append(batch.reshape(-1, channels))
            count += len(found[-1])
            if count >= 20 * MAX_PIXELS:
                break
        pixels = np.concatenate(found)
        different = np.unique(pixels, axis=0)
        if len(different) < self.colors:
            raise DataError(
                f"a palette of {self.colors} colors is larger than the {len(different)} distinct colors of the "
                f"images: give 'colors' at most {len(different)}"
            )
        rng = np.random.default_rng(0)
        scaled = pixels[rng.permutation(len(pixels))[:MAX_PIXELS]] / 127.5 - 1.0
        start = different[rng.permutation(len(different))[: self.colors]] / 127.5 - 1.0
        palette, _ = kmeans2(scaled.astype(np.float32), start.astype(np.float32), minit="matrix", missing="warn")
        self.palette.assign(palette)

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the mean squared distance between pixels and their nearest color, which k-means minimizes."""
        nearest = ops.min(self._distances(images), axis=-1)  # (B, H, W)
        return {"loss": ops.mean(nearest, axis=(1, 2))}

    def _distances(self, images: Tensor) -> Tensor:
        """(B, H, W, C) -> squared distances (B, H, W, colors)."""
        pixels = ops.cast(images, "float32")
        palette = ops.cast(self.palette, "float32")
        products = ops.matmul(pixels, ops.transpose(palette))
        squares = ops.sum(ops.square(pixels), axis=-1, keepdims=True) + ops.sum(ops.square(palette), axis=-1)
        return squares - 2.0 * products

    def encode(self, images: Tensor) -> Tensor:
        return ops.cast(ops.argmin(self._distances(images), axis=-1), "int32")

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return ops.take(ops.cast(self.palette, "float32"), ops.cast(latent, "int32"), axis=0)
