"""The contract of the decoder, which turns latents into images, and training images into latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np

from kgen.backend.attributes import shared_copy
from kgen.contracts.capabilities import limit_passes
from kgen.contracts.encoder import Condition
from kgen.errors import SpaceError
from kgen.options import MAX_OPTION, Arguments, Configurable
from kgen.random import NoiseSpec
from kgen.spaces import Space

Tensor = Any

OF_RUN_FILE = frozenset({"name", "fit", "data", "init", "from"})
"""Keys of a run file that cannot be options of a decoder: its name, its training, or the run that trained it."""

# A method for which subclasses declare options takes (*args: Any, **options: Any), which mypy lets them override.


class Decoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Encodes images as latents, and decodes latents to images.

    A subclass takes `image_space` first, then its options as keyword arguments, as a generator does. If its
    `compute_losses` and `decode` read the text, it takes `condition_space` second. ``build``, which gets no shape,
    creates the weights of `encode` and `decode`; `compute_losses` creates those that only training needs.

    If it uses the encoder of the pipeline in another way, such as its embeddings of images (`kgen.image_embedder`), it
    takes `encoder` third, and keeps it as the attribute `encoder`. The encoder then has its assets, but maybe no
    weights yet: ``build`` may call `Encoder.null_condition`, which creates them. The encoder is trained before the
    decoder, and must stay as it is. The decoder shares its weights, never trains them, and leaves them out of
    `inference_weights`, because they are saved with the encoder. Such a decoder of another run needs the encoder of
    that run, too.

    A decoder that implements `compute_losses` is trained in a separate stage before the generator: `initialize` once,
    `compute_losses` in each step, `calibrate` once. A decoder that only implements `initialize` or `calibrate` (such as
    a principal component analysis) goes through the stage without training steps; its configuration has no `fit`. A
    decoder that reads trained weights from files (`is_pretrained`) needs no `fit`, either.

    Args:
        image_space: The space of the images, whose numbers are in [-1, 1].

    Attributes:
        lossless: True if ``decode(encode(images))`` equals `images`. The likelihood of a latent is then that of the
            image.
        latent_is_image: True if a latent is itself a (small) image that people can look at.
        latent_is_embedding: True if a latent is an embedding of an image, which stands for many similar images, and of
            which only the direction matters. `kgen.Variations` then makes variations of images, and images between two.
        weights_are_external: True if the weights come from elsewhere (a preset, a folder). kgen does not save them.

    Raises:
        SpaceError: in ``__init__``, if the decoder does not support `image_space`. A pretrained decoder raises it in
            `latent_space`.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(("image_space", "condition_space", "encoder"), OF_RUN_FILE),
        "noise_spec": Arguments(),
        "decode": Arguments(("latent", "condition", "noise")),
    }
    largest_option = MAX_OPTION

    lossless: bool = False
    latent_is_image: bool = False
    latent_is_embedding: bool = False
    weights_are_external: bool = False

    def __init__(self, image_space: Space, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_space = image_space

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        """Whether a decoder with these options has trained weights, which it reads from files that the options name.

        Such a decoder reads the configuration in the files when `latent_space` or ``build`` first needs it, and assigns
        the weights in ``build``. A run copies its assets and weights, and does not need the files afterwards. After
        `load_assets`, the decoder does not read the files, because its weights are loaded, too. Default: False.

        Args:
            options: The options as plain data, as `config` returns them.
        """
        return False

    def build(self, input_shape: None = None) -> None:
        """Creates the weights of `encode` and `decode`, and builds layers that only training uses. Default: none."""

    @property
    def latent_space(self) -> Space:
        """The space of the latents, which the generator models."""
        raise NotImplementedError

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError unless this decoder, with the same weights, also supports images of another size.

        Override this in a decoder that supports other sizes. `resized` then returns a decoder whose `image_space` is
        the given one, and `latent_space` must follow from it. `encode`, `decode` and `compute_losses` get images and
        latents of that size, with static shapes. The batches of `initialize`, `calibrate` and `scores` may differ in
        size. Default: the decoder supports only the size of its `image_space`.

        Args:
            image_space: A space that differs from `self.image_space` only in height and width.

        Raises:
            SpaceError: the decoder does not support this size.
        """
        raise SpaceError(
            f"{type(self).__name__} decodes to images of one size, {self.image_space}, and not {image_space}: generate "
            "images of the size of its training, or use the decoder 'identity'"
        )

    def resized(self, image_space: Space) -> Self:
        """Returns this decoder for images of another height and width, with the same layers and weights.

        Raises:
            SpaceError: the decoder does not support this size (`check_space`).
        """
        if image_space == self.image_space:
            return self
        self.check_space(image_space)
        made: Self = shared_copy(self, image_space=image_space)
        return made

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: (B, *image_space.shape) in [-1, 1].

        Returns:
            (B, *latent_space.shape): numbers of unit variance, or tokens.
        """
        raise NotImplementedError

    def noise_spec(self, *args: Any, **options: Any) -> Mapping[str, NoiseSpec]:
        """The random numbers that `decode` needs per image, given the same options. Default: none."""
        return {}

    def decode(
        self, latent: Tensor, condition: Condition, noise: dict[str, Tensor], *args: Any, **options: Any
    ) -> Tensor:
        """Decodes latents to images in [-1, 1] (the pipeline clips them).

        Subclasses declare their options, with types and defaults. An option annotated as float is passed as a scalar
        tensor: see `Generator.generate`.
        """
        raise NotImplementedError

    def without_text(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `decode` for a latent of an image that has no prompt.

        A decoder with an option to leave out the text turns this option on, unless it is given. Default: the given
        options.

        Args:
            options: Validated options of `decode`.
        """
        return dict(options)

    def limit_passes(self, options: Mapping[str, Any], most: int) -> dict[str, Any]:
        """The options of `decode` with at most `most` sampling steps, with which a run tries the decoder first.

        A decoder that gives options to other decoders limits theirs.

        Args:
            options: Validated options of `decode`.
            most: Largest number of steps, and of random samples.
        """
        return limit_passes(type(self).decode, options, most)

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Losses per example (B,), as for a generator. Only for decoders that are trained in a stage."""
        raise NotImplementedError

    def initialize(self, batches: Iterable[np.ndarray]) -> None:
        """Initializes weights from the images, before the first training step. Default: does nothing.

        Args:
            batches: Batches of training images, uint8 (B, *image_space.shape). They can be iterated repeatedly.
        """

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        """Measures what `encode` needs after the training, such as the mean and variance of the latents.

        Store the result in non-trainable weights, or write it in `save_assets`; else it is not saved.

        Args:
            batches: The training images; see `initialize`.
        """

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """Numbers by name that a report shows for a trained decoder, beside its reconstruction error.

        Args:
            batches: Batches as in `calibrate`, but of images that were not used in training, if there are any.
        """
        return {}

    @property
    def inference_weights(self) -> list[Any]:
        """The weights that `encode` and `decode` use. A subclass leaves out those that only training needs."""
        return list(self.weights)

    def save_assets(self, path: str | Path) -> None:
        """Writes what was measured or learned, except weights, to the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Called before any weight exists. Default: nothing."""


def has_losses(decoder: type[Decoder]) -> bool:
    """Whether a decoder has losses, so that its `fit` configures training steps."""
    return decoder.compute_losses is not Decoder.compute_losses


def learns_from_images(decoder: type[Decoder]) -> bool:
    """Whether a decoder needs the training images before use, in the stage before the generator's training."""
    measures = decoder.initialize is not Decoder.initialize or decoder.calibrate is not Decoder.calibrate
    return has_losses(decoder) or measures
