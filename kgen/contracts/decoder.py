"""The contract of the third part: latent -> image, and image -> latent, which gives training its targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kgen.contracts.encoder import Condition
from kgen.options import MAX_OPTION, Arguments, Configurable
from kgen.random import NoiseSpec
from kgen.spaces import Space

Tensor = Any

OF_RUN_FILE = frozenset({"name", "fit", "data", "from"})
"""Keys beside a decoder's options in a run file: which it is, how it is trained, or where it is taken from."""

# A method that subclasses give options of their own has (*args: Any, **options: Any): mypy allows any then.


class Decoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Both directions between images and latents.

    A subclass takes `image_space` first, then its options as keyword arguments, as a generator does; one whose
    `compute_losses` and `decode` read the text takes `condition_space` second. The weights of `encode` and `decode` are
    created in ``build``, which gets no shape; those that only training needs, by `compute_losses`.

    A decoder that implements `compute_losses` is trained before the generator, in a stage of its own: `initialize`
    once, `compute_losses` step by step, `calibrate` once. One that only implements `initialize` or `calibrate` (as a
    principal component analysis does) goes through that stage too, without the steps: its configuration has no `fit`.

    Args:
        image_space: Of the images in [-1, 1] to read and to make.

    Attributes:
        lossless: True where ``decode(encode(images))`` is `images`: a latent's likelihood is then that of the image.
        latent_is_image: True where a latent can be looked at, as a small image can.
        weights_are_external: True where the weights come from elsewhere (a preset, a folder). kgen does not save them.

    Raises:
        SpaceError: from ``__init__``, where the decoder cannot work in `image_space`.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(("image_space", "condition_space"), OF_RUN_FILE),
        "noise_spec": Arguments(),
        "decode": Arguments(("latent", "condition", "noise")),
    }
    largest_option = MAX_OPTION

    lossless: bool = False
    latent_is_image: bool = False
    weights_are_external: bool = False

    def __init__(self, image_space: Space, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_space = image_space

    def build(self, input_shape: None = None) -> None:
        """Creates the weights of `encode` and `decode`, and builds all layers that training adds. Default: none."""

    @property
    def latent_space(self) -> Space:
        """The space the generator works in."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, *image_space.shape) in [-1, 1] -> latents (B, *latent_space.shape): unit variance, or tokens."""
        raise NotImplementedError

    def noise_spec(self, *args: Any, **options: Any) -> Mapping[str, NoiseSpec]:
        """The random numbers that `decode` needs for one image, given the same options. Default: none."""
        return {}

    def decode(
        self, latent: Tensor, condition: Condition, noise: dict[str, Tensor], *args: Any, **options: Any
    ) -> Tensor:
        """Latents -> images in [-1, 1] (the pipeline clips). Subclasses name their options, with types and defaults.

        An option annotated as float comes as a scalar tensor: see `Generator.generate`.
        """
        raise NotImplementedError

    def text_of(self, image: np.ndarray) -> str:
        """What an image, uint8 (*image_space.shape), says; only for decoders whose images are writing."""
        raise NotImplementedError

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Losses of every example (B,), as a generator's; only for decoders that are trained, in an own stage."""
        raise NotImplementedError

    def initialize(self, batches: Iterable[np.ndarray]) -> None:
        """Gives weights a start that depends on the images, before the first step of training. Default: nothing.

        Args:
            batches: Of training images, uint8 (B, *image_space.shape); to be gone through as often as wanted.
        """

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        """Measures what `encode` needs to know of the finished weights, such as the latents' mean and variance.

        Args:
            batches: As for `initialize`. To be kept, what is measured must be a weight (not trainable), or written by
                `save_assets`.
        """

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """What a report should say of a trained decoder, by name, beside the error of its reconstructions.

        Args:
            batches: As for `calibrate`, but of images that it was not trained on, where there are any.
        """
        return {}

    @property
    def inference_weights(self) -> list[Any]:
        """Those of `weights` that `encode` and `decode` use; a subclass leaves out what only training needs."""
        return list(self.weights)

    def save_assets(self, path: str | Path) -> None:
        """Writes what is measured or learned but not a weight into the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote; called before any weight exists. Default: nothing."""


def has_losses(decoder: type[Decoder]) -> bool:
    """Whether a decoder is trained step by step, as its `fit` says."""
    return decoder.compute_losses is not Decoder.compute_losses


def learns_from_images(decoder: type[Decoder]) -> bool:
    """Whether a decoder must see the images before it can be used, in the stage before the generator's training."""
    measures = decoder.initialize is not Decoder.initialize or decoder.calibrate is not Decoder.calibrate
    return has_losses(decoder) or measures
