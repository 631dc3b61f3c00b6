"""The options of a published U-Net, and its layer, which reads the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import keras
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, ConfigError, RunError, Space, SpaceError
from kgen.pretrained import LoraNames, Section
from kgen_plugin_diffusers.folder import CONFIG, Folder, read_config
from kgen_plugin_diffusers.layers import Shape, Tensor
from kgen_plugin_diffusers.names import lora_names
from kgen_plugin_diffusers.unet.architecture import Architecture
from kgen_plugin_diffusers.unet.network import UNetNetwork

MODEL, PARTS = "UNet2DConditionModel", ("unet",)
"""The name of the model's class in diffusers, and those that it may have in a pipeline."""


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
        if space.kind != "continuous" or len(space.shape) != 3:
            raise SpaceError(
                f"a U-Net works on continuous latents of shape (height, width, channels), not on {space}: choose "
                "another decoder or network"
            )

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return UNetLayer(self, name="unet")


class UNetLayer(keras.layers.Layer):
    """The layer of `UNet`. It reads the folder in `build`, unless `load_assets` was called.

    Args:
        options: The options.

    Attributes:
        published: The configuration of the model; None: it has not been read yet.
    """

    def __init__(self, options: UNet, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.options = options
        self._folder: Folder | None = None
        self.published: Section | None = None

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        """Creates every weight, and assigns those of the folder.

        Raises:
            ConfigError: the folder has no such model, or its files do not fit together.
            SpaceError: the model does not fit the latents or the conditions.
        """
        if self.published is None:
            self._folder = Folder(self.options.pretrained, MODEL, PARTS, self.options.variant)
            self.published = self._folder.config()
        model = Architecture.read(self.published)
        if self.options.factor is not None and model.added is None:
            self.published.refuse("addition_embed_type", "is not 'text_time', so that 'factor' has no effect")
        self.network = UNetNetwork(model, self.options.factor or 8, dtype=self.dtype_policy, name="network")
        sequence, pooled = condition_shape["sequence"], condition_shape["pooled"]
        self.network.check(*(int(shape[-1] or 0) for shape in (x_shape, sequence, pooled)))
        self.network.build(x_shape, sequence)
        if self._folder is not None:
            self._folder.fill(self.network)

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, H, W, C), (B,), condition -> (B, H, W, C) float32."""
        return self.network(x, noise_level, condition)

    def lora_names(self) -> LoraNames:
        """The names of the layers in LoRA files."""
        found = lora_names(self.network)
        return replace(found, sources={f"network/{path}": source for path, source in found.sources.items()})

    def save_assets(self, path: str | Path) -> None:
        """Writes the configuration, as it is in the folder."""
        assert self.published is not None
        text = json.dumps(self.published.data, indent=2, sort_keys=True)
        (Path(path) / CONFIG).write_text(text + "\n", encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        try:
            self.published = read_config(Path(path), MODEL)
        except ConfigError as error:
            raise RunError(f"the generator is damaged: {error}") from error
        self._folder = None
