"""The image encoders of CLIP, SigLIP and DINOv2."""

from __future__ import annotations

from typing import Annotated, Any

from kgen_plugin_vision.preprocessing import Preprocessing
from pydantic import Field, PositiveInt

from kgen import ConfigError
from kgen_plugin_keras_hub.images.encoder import PresetImage, Tensor

Name = Annotated[str, Field(min_length=1)]


class ClipImage(PresetImage):
    """The image encoder of a CLIP (Radford et al. 2021).

    "sequence" is the normalized output of the last layer, first for the class token and then for each patch, row by
    row. "pooled" is that of the class token. Without another image converter in the preset, images are resized so that
    the shorter side fits, by bicubic interpolation, and cropped.

    Args:
        preset: Pretrained model: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "clip_vit_base_patch32".
        field: The field of an example that the encoder reads.
        pool: Whether "sequence" has a single position, which is "pooled". A generator that sees all patches of the
            image that it learns to generate may learn to copy it.
        frozen: Whether the weights of the preset stay as they are; false: they are trained with the generator.
        project: Whether "pooled" is projected into the embedding space that images share with texts.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded, or has no projection.
    """

    models = ("CLIPBackbone", "CLIPVisionEncoder")
    published = Preprocessing(short=224, crop=224)

    def __init__(
        self,
        *,
        preset: Name,
        field: Name = "image",
        pool: bool = False,
        frozen: bool = True,
        project: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(preset=preset, field=field, pool=pool, frozen=frozen, **kwargs)
        self.project = project
        self._load()

    def _set_layers(self, backbone: Any) -> None:
        super()._set_layers(backbone)
        if not self.project:
            return
        if self.vision is backbone:
            raise ConfigError(f"preset '{self.preset}' has no projection: leave 'project' out, or use a whole CLIP")
        self.projection = backbone.vision_projection

    @property
    def positions(self) -> int:
        return int(self.vision.image_shape[0] // self.vision.patch_size) ** 2 + 1

    @property
    def pooled_dim(self) -> int:
        return int(self.projection.units if self.project else self.vision.hidden_dim)

    def embed(self, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        made = self.vision({"images": images}, training=training)
        sequence = made["sequence_output"] if isinstance(made, dict) else made  # (B, L, D)
        pooled = sequence[:, 0]  # (B, D)
        return sequence, self.projection(pooled) if self.project else pooled


class SigLIPImage(PresetImage):
    """The image encoder of a SigLIP (Zhai et al. 2023) or SigLIP 2 (Tschannen et al. 2025).

    "sequence" is the normalized output of the last layer for each patch, row by row. "pooled" is what the attention
    pooling makes of it: the embedding that images share with texts, before it is scaled to length 1. Without another
    image converter in the preset, images are resized to the square of the model by bicubic interpolation, whatever
    their proportions.

    Args:
        preset: Pretrained model: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "siglip_base_patch16_224".
        field: The field of an example that the encoder reads.
        pool: Whether "sequence" has a single position, which is "pooled". A generator that sees all patches of the
            image that it learns to generate may learn to copy it.
        frozen: Whether the weights of the preset stay as they are; false: they are trained with the generator.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded.
    """

    models = ("SigLIPBackbone", "SigLIPVisionEncoder")
    published = Preprocessing(short=None, crop=224, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))

    def __init__(
        self, *, preset: Name, field: Name = "image", pool: bool = False, frozen: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(preset=preset, field=field, pool=pool, frozen=frozen, **kwargs)
        self._load()

    @property
    def positions(self) -> int:
        return int(self.vision.image_shape[0] // self.vision.patch_size) ** 2

    def embed(self, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        x = self.vision.embedding(images)  # (B, L, D)
        for block in self.vision.encoder_layers:
            x = block(x, training=training)
        x = self.vision.post_layer_norm(x)
        return x, self.vision.head(x, training=training)


class DINOv2(PresetImage):
    """A vision transformer that was trained on images alone, DINOv2 (Oquab et al. 2023).

    "sequence" is the normalized output of the last layer: for the class token, for the registers if the model has any
    (Darcet et al. 2023), and for each patch, row by row. "pooled" is that of the class token. Without another image
    converter in the preset, images are resized so that the shorter side fits, by bicubic interpolation, and cropped,
    and their colors are normalized with the mean and the deviation of ImageNet.

    Args:
        preset: Pretrained model: a folder in KerasHub's format or in that of `transformers`, "hf://USER/NAME", such as
            "hf://facebook/dinov2-base", or a preset of KerasHub, such as "dinov2_base".
        field: The field of an example that the encoder reads.
        pool: Whether "sequence" has a single position, which is "pooled". A generator that sees all patches of the
            image that it learns to generate may learn to copy it.
        frozen: Whether the weights of the preset stay as they are; false: they are trained with the generator.
        size: Height and width of the images that the model reads, in pixels, a multiple of its patches, to which
            KerasHub interpolates the embeddings of the positions; null: those of the preset, which are often 518.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded, or its patches do not divide `size`.
    """

    models = ("DINOV2Backbone",)
    published = Preprocessing(short=224, crop=224, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))

    def __init__(
        self,
        *,
        preset: Name,
        field: Name = "image",
        pool: bool = False,
        frozen: bool = True,
        size: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(preset=preset, field=field, pool=pool, frozen=frozen, **kwargs)
        self.size = size
        self._load(**({} if size is None else {"image_shape": (size, size, 3)}))

    def _set_layers(self, backbone: Any) -> None:
        super()._set_layers(backbone)
        if (side := backbone.image_shape[0]) % backbone.patch_size:
            raise ConfigError(f"size: {side} must be a multiple of {backbone.patch_size}, the patch of '{self.preset}'")
        if backbone.use_mask_token:
            backbone.embeddings.mask_token.trainable = False  # it replaces patches in DINOv2's own training

    @property
    def positions(self) -> int:
        patches = (self.vision.image_shape[0] // self.vision.patch_size) ** 2
        return int(1 + self.vision.num_register_tokens + patches)

    def embed(self, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        sequence = self.vision({"images": images}, training=training)  # (B, L, D)
        return sequence, sequence[:, 0]
