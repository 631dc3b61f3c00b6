"""Decoders whose latent is a smaller version of the image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field

from kgen import Decoder, Space, SpaceError
from kgen_plugin_superres.resize import enlarge, shrink

Tensor = Any
Factor = Annotated[int, Field(ge=2)]


class SmallImage(Decoder):
    """Base class of decoders whose latents are small images.

    Args:
        factor: Factor of height and width.

    Raises:
        SpaceError: The images are not a grid of (height, width, channels), or `factor` does not divide them.
    """

    latent_is_image = True

    def __init__(self, image_space: Space, *, factor: int, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        if image_space.kind != "continuous" or len(image_space.shape) != 3:
            raise SpaceError(f"super-resolution needs images of shape (height, width, channels), not {image_space}")
        height, width, _ = image_space.shape
        if height % factor or width % factor:
            raise SpaceError(
                f"super-resolution by {factor} needs a height and a width divisible by {factor}, but the images are "
                f"{height}x{width}: change the dataset's size, or factor"
            )
        self.factor = factor

    @property
    def latent_space(self) -> Space:
        height, width, channels = self.image_space.shape
        return Space("continuous", (height // self.factor, width // self.factor, channels))

    def encode(self, images: Tensor) -> Tensor:
        return shrink(images, self.factor)

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """Returns the PSNR of bicubic interpolation, in dB, for comparison."""
        found: list[np.ndarray] = []
        for batch in batches:
            images = ops.convert_to_tensor(batch.astype("float32") / 127.5 - 1.0)
            enlarged = ops.clip(enlarge(self.encode(images), self.factor), -1.0, 1.0)
            error = ops.convert_to_numpy(ops.mean(ops.square(enlarged - images), axis=(1, 2, 3)))
            found.append(10.0 * np.log10(4.0 / np.maximum(error, 1e-12)))
        return {"PSNR, bicubic": float(np.concatenate(found).mean())}
