"""The diffusion model of Stable Diffusion, as a network of `diffusion/diffusion`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import keras
from keras import ops
from kgen_plugin_diffusers.folder import Folder
from kgen_plugin_diffusers.unet.architecture import Architecture
from pydantic import Field

from kgen import ConditionSpace, Space, SpaceError
from kgen.nn import sinusoidal
from kgen.pretrained import Section, Tensors
from kgen_plugin_keras_cv.files import check_options, is_file, load_file
from kgen_plugin_keras_cv.library import VERSIONS, Number, new_model
from kgen_plugin_keras_cv.names import named, unet_layers, unet_modules

Tensor = Any
Shape = tuple[int | None, ...]

FACTOR, STRIDE, CHANNELS = 8, 8, 4
"""Height and width of an image over those of its latent, which its constructor takes; what must divide the latent's;
and the number of channels of the latent."""


@dataclass(frozen=True)
class UNet:
    """The diffusion model of Stable Diffusion 1 or 2, a model of keras-cv (Rombach et al. 2022).

    It attends to all positions of the condition's "sequence", the padding included, as Stable Diffusion was trained;
    it does not read "mask" and "pooled". It sees numbered steps, so its generator needs ``schedule: discrete``.

    Args:
        version: The version of Stable Diffusion: 1 (conditions of 768 features) or 2 (1024 features).
        pretrained: Trained weights: a ``.h5`` file of keras-cv's `DiffusionModel`, or a folder of a
            `UNet2DConditionModel` or of a pipeline with one, which diffusers has written; None: random weights.
        variant: The variant of the weights in the folder, such as "fp16"; None: the files without a variant.
    """

    version: Number = 1
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    variant: Annotated[str, Field(min_length=1)] | None = None

    any_shape: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self.pretrained, self.variant)

    def check(self, space: Space) -> None:
        """Raises SpaceError if the latents have no 4 channels, or a side that 8 does not divide."""
        if space.kind != "continuous" or len(space.shape) != 3 or space.shape[-1] != CHANNELS:
            raise SpaceError(
                f"the diffusion model of keras-cv needs latents of shape (height, width, {CHANNELS}), not {space}: "
                "choose the decoder 'keras-cv/vae', or another network"
            )
        height, width, _ = space.shape
        if height % STRIDE or width % STRIDE:
            raise SpaceError(
                f"the diffusion model of keras-cv needs latents whose height and width are divisible by {STRIDE}, but "
                f"they are {height}x{width}: choose images whose sides are multiples of {STRIDE * FACTOR}"
            )

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return UNetLayer(self, name="unet")


class UNetLayer(keras.layers.Layer):
    """The layer of `UNet`. It reads the files in `build`, unless `load_assets` was called.

    Args:
        options: The options.
    """

    def __init__(self, options: UNet, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.options = options
        self._reads_files = options.pretrained is not None

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        """Creates every weight, and assigns those of the files.

        Raises:
            PluginError: keras-cv, or TensorFlow, is missing.
            ConfigError: the files have another model.
            SpaceError: the model does not fit the conditions.
        """
        _, height, width, _ = x_shape
        _, length, dim = condition_shape["sequence"]
        sizes = (int(height or 0) * FACTOR, int(width or 0) * FACTOR, int(length or 0))
        model = new_model(VERSIONS[self.options.version].diffusion_model, self.dtype_policy, *sizes)
        _, embedding, context = model.inputs
        if dim != context.shape[-1]:
            raise SpaceError(
                f"version {self.options.version} of the diffusion model of keras-cv needs conditions of "
                f"{context.shape[-1]} features, but the encoder's have {dim}: choose the encoder 'keras-cv/clip-text' "
                "of the same version"
            )
        if self._reads_files:
            self._fill(model)
        self.features = int(embedding.shape[-1])
        self.modules = dict(zip(unet_modules(), unet_layers(model), strict=True))  # the weights get their names from it
        self.network = model

    def _fill(self, model: keras.Model) -> None:
        """Assigns the weights of the files. Raises ConfigError if they have another model."""
        pretrained = self.options.pretrained
        assert pretrained is not None
        if is_file(pretrained):
            load_file(model, pretrained)
            return
        folder = Folder(pretrained, "UNet2DConditionModel", ("unet",), self.options.variant)
        check_config(folder.config(), model, VERSIONS[self.options.version].linear)
        with Tensors(folder.files()) as tensors:
            tensors.fill(*named(unet_layers(model), unet_modules()))

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, h, w, 4), (B,), condition -> (B, h, w, 4) float32."""
        embedding = sinusoidal(noise_level, self.features)  # (B, F)
        return ops.cast(self.network([x, embedding, condition["sequence"]], training=training), "float32")

    def save_assets(self, path: str | Path) -> None:
        """Writes nothing: the options say everything but the weights."""

    def load_assets(self, path: str | Path) -> None:
        """Skips the files: the weights are loaded, too."""
        self._reads_files = False


def check_config(config: Section, model: keras.Model, linear: bool) -> None:
    """Compares the configuration of a `UNet2DConditionModel` with a model of keras-cv.

    Args:
        config: The configuration.
        model: The model.
        linear: Whether its transformers are between dense layers, and not between 1x1 convolutions.

    Raises:
        ConfigError: they differ in what neither the names nor the shapes of the tensors tell.
    """
    found = Architecture.read(config)
    transformers = [layer for layer in model.layers if type(layer).__name__ == "SpatialTransformer"]
    heads = [layer.transformer_block.attn1.num_heads for layer in transformers[:7:2]]  # of each size
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.GroupNormalization))
    wanted = {
        "use_linear_projection": (found.linear, linear),
        "norm_num_groups": (found.groups, norm.groups),
        "norm_eps": (found.epsilon, norm.epsilon),
        "attention_head_dim": ([stage.heads for stage in found.stages], heads),
        "resnet_time_scale_shift": (found.modulation, "default"),
        "downsample_padding": (int(found.padding), 1),
        "flip_sin_to_cos": (found.cosines_first, True),
        "freq_shift": (found.shift, 0.0),
        "addition_embed_type": (found.added, None),
    }
    for key, (there, here) in wanted.items():
        if there != here:
            config.refuse(key, f"must be {here}, as in keras-cv: use the network 'unet-2d-condition'")
