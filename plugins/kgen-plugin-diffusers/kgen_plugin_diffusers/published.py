"""The layer of a network that was published in a folder of diffusers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import keras

from kgen import ConfigError, RunError, Space, SpaceError
from kgen.pretrained import LoraNames, Section
from kgen_plugin_diffusers.folder import CONFIG, Folder, read_config
from kgen_plugin_diffusers.layers import Shape, Tensor
from kgen_plugin_diffusers.names import lora_names


class PublishedOptions(Protocol):
    """The options that name the files of a model."""

    @property
    def pretrained(self) -> str:
        """The folder of the model, or of a pipeline with it."""

    @property
    def variant(self) -> str | None:
        """The variant of the weights, such as "fp16"; None: the files without a variant."""


class PublishedNetwork(keras.layers.Layer):
    """A network of `diffusion.network` that reads a folder in `build`, unless `load_assets` was called.

    Args:
        options: The options.

    Attributes:
        model_class: The name of the model's class in diffusers.
        earlier_classes: The names that it had in earlier versions of diffusers.
        parts: The names that the model may have in a pipeline. The first is also that of its LoRA.
        published: The configuration of the model; None: it has not been read yet.
    """

    model_class: ClassVar[str]
    earlier_classes: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]]

    def __init__(self, options: PublishedOptions, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.options = options
        self._folder: Folder | None = None
        self.published: Section | None = None

    @abstractmethod
    def make(self, config: Section, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> keras.layers.Layer:
        """Makes the network, and builds it. It is called with (B, H, W, C), the number of the step (B,), and the
        condition, and returns (B, H, W, C or more) float32.

        Args:
            config: The configuration, of which only the keys of every model have been read.
            x_shape, condition_shape: See `build`.
        """

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        """Creates every weight, and assigns those of the folder.

        Raises:
            ConfigError: the folder has no such model, or its files do not fit together.
            SpaceError: the model does not fit the latents or the conditions.
        """
        if self.published is None:
            own = self.options
            self._folder = Folder(own.pretrained, self.model_class, self.parts, own.variant, self.earlier_classes)
            self.published = self._folder.config()
        self.network = self.make(self.published, x_shape, condition_shape)
        if self._folder is not None:
            self._folder.fill(self.network)

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, H, W, C), (B,), condition -> (B, H, W, C) float32.

        If the network makes twice as many channels, the second half are variances (Nichol and Dhariwal 2021). They are
        left out, as in the pipelines of diffusers.
        """
        return self.network(x, noise_level, condition)[..., : x.shape[-1]]

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the built network does not fit latents of this size. Default: all sizes fit."""

    def lora_names(self) -> LoraNames:
        """The names of the layers in LoRA files."""
        found = lora_names(self.network, self.parts[0])
        return replace(found, sources={f"network/{path}": source for path, source in found.sources.items()})

    def save_assets(self, path: str | Path) -> None:
        """Writes the configuration, as it is in the folder."""
        assert self.published is not None
        text = json.dumps(self.published.data, indent=2, sort_keys=True)
        (Path(path) / CONFIG).write_text(text + "\n", encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        try:
            self.published = read_config(Path(path), self.model_class, *self.earlier_classes)
        except ConfigError as error:
            raise RunError(f"the generator is damaged: {error}") from error
        self._folder = None


def require_grid(space: Space, name: str) -> None:
    """Raises SpaceError if the latents are no grid.

    Args:
        space: The space of the latents.
        name: What needs a grid, such as "a U-Net".
    """
    if space.kind != "continuous" or len(space.shape) != 3:
        raise SpaceError(
            f"{name} works on continuous latents of shape (height, width, channels), not on {space}: choose another "
            "decoder or network"
        )
