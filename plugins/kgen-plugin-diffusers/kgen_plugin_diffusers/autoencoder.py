"""What the published autoencoders have in common as decoders: their folder, and the losses of images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import keras
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.reconstruction import Name
from kgen_plugin_codecs.reconstruction_loss import ReconstructionLoss

from kgen import ConfigError, Decoder, NoiseSpec, RunError, Space
from kgen.pretrained import Section
from kgen_plugin_diffusers.folder import CONFIG, Folder, read_config
from kgen_plugin_diffusers.layers import Tensor
from kgen_plugin_diffusers.networks import Network
from kgen_plugin_diffusers.tiles import decode_in_tiles


class Architecture(Protocol):
    """The configuration of a model."""

    @property
    def network(self) -> Network:
        """The options of both networks."""

    @classmethod
    def read(cls, config: Section) -> Architecture:
        """Reads the keys of a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """

    def build(self, policy: Any) -> keras.layers.Layer:
        """Makes the layers of the model."""


class PretrainedAutoencoder(Decoder):
    """Base class of the decoders whose architecture and weights are those of a folder.

    The configuration is read when it is first needed, so that a decoder can be made without the folder, and
    `load_assets` can replace it. The weights are assigned in ``build``. A subclass has the options `pretrained` and
    `variant`, and calls `_set_losses` in its constructor.

    Attributes:
        model_class: The name of the model's class in diffusers.
        parts: The names that the model may have in a pipeline.
        architecture_class: The class of the configuration.
    """

    model_class: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    architecture_class: ClassVar[type[Architecture]]

    pretrained: str
    variant: str | None

    def __init__(self, image_space: Space, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self._folder: Folder | None = None
        self._published: Section | None = None
        self._architecture: Any = None

    def _set_losses(
        self, reconstruction: Name, perceptual: Perceptual | None, discriminator: Discriminator | None
    ) -> None:
        """Stores the options of `ReconstructionLoss`, and makes it."""
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.reconstruction_loss = ReconstructionLoss(
            reconstruction, perceptual, discriminator, dtype="float32", name="reconstruction_loss"
        )

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return True

    @property
    def architecture(self) -> Any:
        """The configuration of the model, an `Architecture`.

        Raises:
            ConfigError: the folder has no such model.
        """
        if self._architecture is None:
            folder = Folder(self.pretrained, self.model_class, self.parts, self.variant)
            self._set_architecture(folder.config())
            self._folder = folder
        return self._architecture

    @property
    def published(self) -> Section:
        """The configuration of the model, as it is in the folder. Raises ConfigError, as `architecture` does."""
        assert self.architecture is not None and self._published is not None
        return self._published

    def _set_architecture(self, config: Section) -> None:
        self._architecture = self.architecture_class.read(config)
        self._published = config

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.architecture.network.grid(self.image_space)

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError if the downsampling factor does not divide the height and the width."""
        self.architecture.network.grid(image_space)

    def build(self, input_shape: None = None) -> None:
        images = (None, *self.image_space.shape)
        self.network = self.architecture.build(self.dtype_policy)
        self.network.build(images)
        self.reconstruction_loss.build(images, images)
        if self._folder is not None:
            self._folder.fill(self.network)

    @property
    def inference_weights(self) -> list[Any]:
        return list(self.network.weights)

    def noise_spec(self, *, tile: int | None = None, **options: Any) -> dict[str, NoiseSpec]:
        """Needs no noise. Raises ValueError if `tile` does not fit the latents."""
        factor = self.architecture.network.factor
        if tile is not None and (tile % factor or tile < 2 * factor):
            raise ValueError(
                f"tile: {tile} must be a multiple of {factor}, the downsampling factor, and at least {2 * factor}"
            )
        return {}

    def _decoded(self, z: Tensor, tile: int | None, sliced: bool) -> Tensor:
        """Decodes what the decoder network reads: (B, h, w, C) -> (B, H, W, channels)."""
        network = self.architecture.network
        size = None if tile is None else tile // network.factor
        return decode_in_tiles(self.network.decode, z, network.factor, network.image_channels, size, sliced)

    def save_assets(self, path: str | Path) -> None:
        """Writes the configuration, as it is in the folder."""
        text = json.dumps(self.published.data, indent=2, sort_keys=True)
        (Path(path) / CONFIG).write_text(text + "\n", encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        try:
            self._set_architecture(read_config(Path(path), self.model_class))
        except ConfigError as error:
            raise RunError(f"the decoder is damaged: {error}") from error
        self._folder = None
