"""The options of a published U-Net, and its layer, which reads the folder."""

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
from kgen_plugin_diffusers.unet.architecture import Architecture
from kgen_plugin_diffusers.unet.network import UNetNetwork

FACTOR = 8
"""Height and width of an image over those of its latent, in Stable Diffusion."""


@dataclass(frozen=True)
class UNet:
    """The U-Net of Stable Diffusion 1, 2 or XL (Rombach et al. 2022), in a folder that diffusers has written.

    Its architecture and its first weights are those of the folder. It sees numbered steps, so its generator needs
    ``schedule: discrete``, with the prediction of the published model.

    Args:
        pretrained: The folder of a `UNet2DConditionModel`, or of a pipeline with one.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        factor: For SDXL, height and width of an image over those of its latent. The network reads the size of the
            image, which stands for the original size, too, and a crop without an offset. None means 8.
    """

    pretrained: Annotated[str, Field(min_length=1)]
    variant: Annotated[str, Field(min_length=1)] | None = None
    factor: PositiveInt | None = None

    any_shape: ClassVar[bool] = True

    def check(self, space: Space) -> None:
        """Raises SpaceError if the latents are no grid. The folder is not read here."""
        require_grid(space, "a U-Net")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return UNetLayer(self, name="unet")


class UNetLayer(PublishedNetwork):
    """The layer of `UNet`."""

    options: UNet
    model_class = "UNet2DConditionModel"
    parts = ("unet",)

    def make(self, config: Section, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> UNetNetwork:
        model = Architecture.read(config)
        if self.options.factor is not None and model.added is None:
            config.refuse("addition_embed_type", "is not 'text_time', so that 'factor' has no effect")
        network = UNetNetwork(model, self.options.factor or FACTOR, dtype=self.dtype_policy, name="network")
        sequence, pooled = condition_shape["sequence"], condition_shape["pooled"]
        network.check(*(int(shape[-1] or 0) for shape in (x_shape, sequence, pooled)))
        network.build(x_shape, sequence)
        return network
