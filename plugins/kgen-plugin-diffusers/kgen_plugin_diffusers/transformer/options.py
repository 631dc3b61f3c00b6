"""The options of published transformers, and their layers, which read the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import keras
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Space
from kgen.pretrained import Section
from kgen_plugin_diffusers.layers import Shape
from kgen_plugin_diffusers.published import PublishedNetwork, require_grid
from kgen_plugin_diffusers.transformer.architecture import EARLIER, Architecture, DiTArchitecture, PixArtArchitecture
from kgen_plugin_diffusers.transformer.network import DiTNetwork, PixArtNetwork

FACTOR = 8
"""Height and width of an image over those of its latent, in PixArt."""


@dataclass(frozen=True)
class DiT:
    """The transformer of DiT (Peebles and Xie 2023), in a folder that diffusers has written.

    Its architecture and its first weights are those of the folder. It reads a class: the encoder is
    `diffusers/class-label`. It sees numbered steps, so its generator needs ``schedule: {kind: discrete, betas:
    linear}``, with ``prediction: eps``.

    Args:
        pretrained: The folder of a `DiTTransformer2DModel`, or of a pipeline with one.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
    """

    pretrained: Annotated[str, Field(min_length=1)]
    variant: Annotated[str, Field(min_length=1)] | None = None

    any_shape: ClassVar[bool] = True

    def check(self, space: Space) -> None:
        """Raises SpaceError if the latents are no grid. The folder is not read here."""
        require_grid(space, "a transformer of images")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return DiTLayer(self, name="dit")


@dataclass(frozen=True)
class PixArt:
    """The transformer of PixArt-alpha or PixArt-sigma (Chen et al. 2024), in a folder that diffusers has written.

    Its architecture and its first weights are those of the folder. It sees numbered steps, so its generator needs
    ``schedule: {kind: discrete, betas: linear}``, with ``prediction: eps``.

    Args:
        pretrained: The folder of a `PixArtTransformer2DModel`, or of a pipeline with one.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        factor: For a model that reads the size of the image (PixArt-alpha for 1024 pixels), height and width of an
            image over those of its latent. None means 8.
    """

    pretrained: Annotated[str, Field(min_length=1)]
    variant: Annotated[str, Field(min_length=1)] | None = None
    factor: PositiveInt | None = None

    any_shape: ClassVar[bool] = True

    def check(self, space: Space) -> None:
        """Raises SpaceError if the latents are no grid. The folder is not read here."""
        require_grid(space, "a transformer of images")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return PixArtLayer(self, name="pixart")


class TransformerLayer(PublishedNetwork):
    """What both layers have in common."""

    earlier_classes = (EARLIER,)
    parts = ("transformer",)

    network: DiTNetwork | PixArtNetwork

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the built model does not fit latents of this size."""
        self.network.model.check(space)

    def _check(self, model: Architecture, x_shape: Shape) -> None:
        model.check(Space("continuous", tuple(int(size or 0) for size in x_shape[1:]), bounded=False))


class DiTLayer(TransformerLayer):
    """The layer of `DiT`."""

    model_class = "DiTTransformer2DModel"

    def make(self, config: Section, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> DiTNetwork:
        model = DiTArchitecture.read(config)
        self._check(model, x_shape)
        network = DiTNetwork(model, dtype=self.dtype_policy, name="network")
        network.check_condition(int(condition_shape["pooled"][-1] or 0))
        network.build(x_shape, condition_shape["pooled"])
        return network


class PixArtLayer(TransformerLayer):
    """The layer of `PixArt`."""

    options: PixArt
    model_class = "PixArtTransformer2DModel"

    def make(self, config: Section, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> PixArtNetwork:
        model = PixArtArchitecture.read(config)
        self._check(model, x_shape)
        if self.options.factor is not None and not model.sizes:
            config.refuse("use_additional_conditions", "is off, so that 'factor' has no effect")
        network = PixArtNetwork(model, self.options.factor or FACTOR, dtype=self.dtype_policy, name="network")
        network.check_condition(int(condition_shape["sequence"][-1] or 0))
        network.build(x_shape, condition_shape["sequence"])
        return network
