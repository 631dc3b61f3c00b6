"""The configurations of diffusers' transformers of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kgen import Space, SpaceError
from kgen.pretrained import Section
from kgen_plugin_diffusers.layers import ACTIVATIONS

EARLIER = "Transformer2DModel"
"""The class of both models in the first versions of diffusers. Its `norm_type` tells which of them it is."""

WITHOUT_EFFECT = ("norm_num_groups", "upcast_attention")
"""Keys of other models, and the type of the softmax, which kgen computes in float32."""

EARLIER_KEYS: Mapping[str, Any] = {
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}
"""Keys of the earlier class that must have their default. They belong to other models."""

FLAGS = {True: True, False: False}

MAX_WITHOUT_SCALE = 64
"""PixArt's positions are those of latents of up to this size; for larger ones, the distances are smaller."""

SIZE_CONDITIONS = 3
"""Number of sizes of an image that PixArt's model for 1024 pixels reads: its height, width and aspect ratio."""

SIZE_CONDITIONED = 128
"""The size of the latents for which a PixArt reads these sizes if its configuration does not say."""


@dataclass(frozen=True)
class Architecture:
    """What both configurations have in common.

    Args:
        in_channels, out_channels: Number of channels of the input and of the output.
        patch: Height and width of the square of positions that becomes one token.
        heads: Number of attention heads.
        width: Dimension of a token.
        depth: Number of blocks.
        bias: Whether the projections to queries, keys and values have a bias.
        activation: The activation of the hidden layers: see `kgen_plugin_diffusers.layers.ACTIVATIONS`.
        affine: Whether the normalizations of the blocks have weights.
        epsilon: The number that they add to the variance.
        side: Number of rows and columns of tokens in the training. Other numbers are scaled to it.
        scale: The distance of two tokens is divided by this number.
    """

    in_channels: int
    out_channels: int
    patch: int
    heads: int
    width: int
    depth: int
    bias: bool
    activation: str
    affine: bool
    epsilon: float
    side: int
    scale: float

    def check(self, space: Space) -> None:
        """Raises SpaceError if the patches do not divide the latents, or if these have other channels."""
        height, width, channels = space.shape
        if self.in_channels != channels:
            raise SpaceError(
                f"this transformer reads latents with {self.in_channels} channels, not {channels}: choose the decoder "
                "of the same pipeline"
            )
        if self.out_channels not in (channels, 2 * channels):
            raise SpaceError(
                f"this transformer makes {self.out_channels} channels, which are neither those of the latents, "
                f"{channels}, nor these and their variances"
            )
        if height % self.patch or width % self.patch:
            raise SpaceError(
                f"this transformer needs latents whose height and width are divisible by {self.patch}, but they are "
                f"{height}x{width}: change the size of the images"
            )


@dataclass(frozen=True)
class DiTArchitecture(Architecture):
    """The configuration of a `DiTTransformer2DModel`.

    Args:
        classes: Number of classes, without that of "no class".
    """

    classes: int

    @classmethod
    def read(cls, config: Section) -> DiTArchitecture:
        """Reads a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """
        earlier = _is_earlier(config, "ada_norm_zero")
        found = cls(
            **_common(config, out_channels=None, sample_size=32, norm_eps=1e-5),
            scale=1.0,
            classes=config.whole("num_embeds_ada_norm", 1000),
        )
        if earlier:
            for key in ("caption_channels", "cross_attention_dim", "interpolation_scale"):
                config.one_of(key, {None: None}, None)
            config.one_of("use_additional_conditions", {None: None, False: None}, None)
            config.one_of("attention_type", {"default": None}, "default")
        config.finish()
        return found

    @staticmethod
    def read_classes(config: Section) -> int:
        """The number of classes alone, of a configuration that is not read any further."""
        return config.whole("num_embeds_ada_norm", 1000)


@dataclass(frozen=True)
class PixArtArchitecture(Architecture):
    """The configuration of a `PixArtTransformer2DModel`.

    Args:
        text: Dimension of the text's sequence.
        projection: Whether two dense layers project the text to the dimension of the tokens.
        sizes: Whether the model reads the height, the width and the aspect ratio of the image.
    """

    text: int
    projection: bool
    sizes: bool

    @classmethod
    def read(cls, config: Section) -> PixArtArchitecture:
        """Reads a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """
        _is_earlier(config, "ada_norm_single")
        common = _common(config, out_channels=8, sample_size=128, norm_eps=1e-6)
        config.one_of("attention_type", {"default": None}, "default")
        config.ignore("num_embeds_ada_norm")  # it belongs to the classes of DiT
        size, width, text = config.whole("sample_size", 128), common["width"], config.whole("cross_attention_dim", 1152)
        projection = config.value("caption_channels", None) is not None
        if projection and text != width:
            config.refuse(
                "cross_attention_dim", f"must be the width, {width}, because of 'caption_channels', not {text}"
            )
        sizes = config.one_of("use_additional_conditions", {None: size == SIZE_CONDITIONED, **FLAGS}, None)
        if sizes and width % SIZE_CONDITIONS:
            config.refuse(
                "attention_head_dim",
                f"times 'num_attention_heads' must be a multiple of {SIZE_CONDITIONS} for a model that reads the size "
                f"of the image, not {width}",
            )
        scale = config.value("interpolation_scale", None)
        found = cls(
            **common,
            scale=max(size // MAX_WITHOUT_SCALE, 1) if scale is None else config.number("interpolation_scale"),
            text=config.whole("caption_channels") if projection else text,
            projection=projection,
            sizes=sizes,
        )
        config.finish()
        return found


def _is_earlier(config: Section, norm: str) -> bool:
    """Reads the keys that tell the two models apart. Returns whether it is a configuration of the earlier class."""
    earlier = config.value("_class_name") == EARLIER
    config.one_of("norm_type", {norm: None}, *([] if earlier else [norm]))
    if earlier:
        for key, default in EARLIER_KEYS.items():
            config.one_of(key, {default: None}, default)
    return earlier


def _common(config: Section, out_channels: int | None, sample_size: int, norm_eps: float) -> dict[str, Any]:
    """The keys of both models. The arguments are the defaults in which these differ."""
    heads, dim = config.whole("num_attention_heads", 16), config.whole("attention_head_dim", 72)
    if heads * dim % 4:
        config.refuse(
            "attention_head_dim", f"times 'num_attention_heads' must be a multiple of 4, for the positions, not {dim}"
        )
    size, patch = config.whole("sample_size", sample_size), config.whole("patch_size", 2)
    if size < patch:
        config.refuse("sample_size", f"must be at least 'patch_size', {patch}, not {size}")
    channels = config.whole("in_channels", 4)
    same = config.value("out_channels", out_channels) is None
    if (dropout := config.real("dropout", 0)) != 0:
        config.refuse("dropout", f"must be 0, not {dropout:g}")
    config.ignore(*WITHOUT_EFFECT)
    return {
        "in_channels": channels,
        "out_channels": channels if same else config.whole("out_channels", out_channels),
        "patch": patch,
        "heads": heads,
        "width": heads * dim,
        "depth": config.whole("num_layers", 28),
        "bias": config.one_of("attention_bias", FLAGS, True),
        "activation": config.one_of("activation_fn", {name: name for name in ACTIVATIONS}, "gelu-approximate"),
        "affine": config.one_of("norm_elementwise_affine", FLAGS, False),
        "epsilon": config.number("norm_eps", norm_eps),
        "side": size // patch,
    }
