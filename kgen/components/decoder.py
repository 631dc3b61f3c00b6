"""The contract of the third part: latent -> image, and image -> latent, which gives training its targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras

from kgen.components.encoder import Condition
from kgen.random import NoiseSpec
from kgen.signature import Configurable
from kgen.spaces import Space

Tensor = Any


class Decoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Both directions between images and latents.

    A subclass takes `image_space` first, then its options as keyword arguments, as a generator does.

    Args:
        image_space: Of the images in [-1, 1] to read and to make.

    Raises:
        SpaceError: from ``__init__``, where the decoder cannot work in `image_space`.
    """

    lossless: ClassVar[bool] = False
    """True where ``decode(encode(images))`` is `images`: a latent's likelihood is then that of the image."""

    has_own_weights: bool = False
    """True where the weights come from elsewhere (a preset, a folder): kgen then does not save them."""

    def __init__(self, image_space: Space, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_space = image_space

    @property
    def latent_space(self) -> Space:
        """The space the generator works in."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, *image_space.shape) in [-1, 1] -> latents (B, *latent_space.shape): unit variance, or tokens."""
        raise NotImplementedError

    def noise_spec(self, **options: Any) -> Mapping[str, NoiseSpec]:
        """The random numbers that `decode` needs for one picture, given the same options. Default: none."""
        return {}

    def decode(self, latent: Tensor, condition: Condition, noise: dict[str, Tensor], **options: Any) -> Tensor:
        """Latents -> images in [-1, 1] (the pipeline clips). Subclasses name their options, with types and defaults."""
        raise NotImplementedError

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Losses of every example (B,), as a generator's; only for decoders that are trained, in an own stage."""
        raise NotImplementedError

    def save_assets(self, path: str | Path) -> None:
        """Writes what is measured or learned but not a weight into the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote; called before any weight exists. Default: nothing."""
