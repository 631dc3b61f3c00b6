"""The configuration of diffusers' conditional U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kgen.pretrained import Section
from kgen_plugin_diffusers.networks import block_types

DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
"""The types of blocks, and whether they have attention to the text."""

MIDDLE = "UNetMidBlock2DCrossAttn"

WITHOUT_EFFECT = ("sample_size", "upcast_attention")
"""The size from which pipelines derive that of their images, and the type of the softmax, which kgen computes in
float32."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (MIDDLE,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_skip_time_act": (False,),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""Keys that must have their default, the first value, or another value of the same meaning."""

FIXED_NUMBERS = {"dropout": 0, "mid_block_scale_factor": 1, "resnet_out_scale_factor": 1}
"""Keys that must have their default, a number."""

Modulation = Literal["default", "scale_shift"]


@dataclass(frozen=True)
class Stage:
    """The blocks of one size.

    Args:
        channels: Number of channels.
        blocks: Number of residual blocks on the way down. There is one more on the way up.
        heads: Number of attention heads.
        depth: Number of transformer blocks after each residual block.
        down, up: Whether there is attention on the way down, and on the way up.
    """

    channels: int
    blocks: int
    heads: int
    depth: int
    down: bool
    up: bool


@dataclass(frozen=True)
class Added:
    """The embedding of the pooled text and of the sizes that SDXL adds to that of the time.

    Args:
        features: Number of sines and cosines of each of the six sizes.
        pooled: Number of features of the pooled text.
    """

    features: int
    pooled: int


SIZES = 6
"""Number of sizes in SDXL's embedding: those of the original, of the crop's corner, and of the image, two each."""


@dataclass(frozen=True)
class Architecture:
    """The configuration of a model.

    Args:
        in_channels, out_channels: Number of channels of the input and of the output.
        stages: The stages, in the order of the way down. Each has half the height and width of the one before.
        text: Dimension of the text's sequence.
        linear: Whether the projections around the transformer blocks are dense layers, or else 1x1 convolutions.
        groups, epsilon: Number of groups of the normalizations, and the number that they add to the variance.
        modulation: Whether the time is added to the input of each second convolution, or scales and shifts it.
        padding: Whether a downsampling pads 1 on all sides, or else at the right and the bottom.
        cosines_first: Whether the cosines of the time precede its sines.
        shift: A shift of the frequencies of these: see `kgen_plugin_diffusers.layers.waves`.
        added: SDXL's embedding of the pooled text and the sizes; None: there is none.
    """

    in_channels: int
    out_channels: int
    stages: tuple[Stage, ...]
    text: int
    linear: bool
    groups: int
    epsilon: float
    modulation: Modulation
    padding: bool
    cosines_first: bool
    shift: float
    added: Added | None

    @classmethod
    def read(cls, config: Section) -> Architecture:
        """Reads a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """
        flags = {True: True, False: False}
        groups = config.whole("norm_num_groups", 32)
        stages = _stages(config, groups)
        shift = config.real("freq_shift", 0)
        if stages[0].channels % 2:
            config.refuse("block_out_channels", f"must begin with an even number, not {stages[0].channels}")
        if shift >= stages[0].channels / 2:
            config.refuse("freq_shift", f"must be smaller than half of the first stage's channels, not {shift:g}")
        found = cls(
            in_channels=config.whole("in_channels", 4),
            out_channels=config.whole("out_channels", 4),
            stages=stages,
            text=config.whole("cross_attention_dim", 1280),
            linear=config.one_of("use_linear_projection", flags, False),
            groups=groups,
            epsilon=config.number("norm_eps", 1e-5),
            modulation=config.one_of(
                "resnet_time_scale_shift", {"default": "default", "scale_shift": "scale_shift"}, "default"
            ),
            padding=config.one_of("downsample_padding", {1: True, 0: False}, 1),
            cosines_first=config.one_of("flip_sin_to_cos", flags, True),
            shift=shift,
            added=_added(config),
        )
        config.ignore(*WITHOUT_EFFECT)
        for key, allowed in FIXED.items():
            config.one_of(key, dict.fromkeys(allowed), allowed[0])
        for key, default in FIXED_NUMBERS.items():
            if (number := config.real(key, default)) != default:
                config.refuse(key, f"must be {default}, not {number:g}")
        config.finish()
        return found


def _stages(config: Section, groups: int) -> tuple[Stage, ...]:
    channels = config.wholes("block_out_channels", (320, 640, 1280, 1280))
    if odd := [number for number in channels if number % groups]:
        config.refuse("block_out_channels", f"must be multiples of norm_num_groups, {groups}, but one is {odd[0]}")
    count = len(channels)
    down = block_types(config, "down_block_types", DOWN, count, (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"))
    up = block_types(config, "up_block_types", UP, count, ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3))
    heads = _numbers(config, "attention_head_dim", 8, count)
    for stage, (number, size) in enumerate(zip(heads, channels, strict=True)):
        attends = down[stage] or up[count - 1 - stage] or stage == count - 1
        if attends and size % number:
            config.refuse("attention_head_dim", f"is the number of heads, and {number} does not divide {size} channels")
    blocks = _numbers(config, "layers_per_block", 2, count)
    depths = _numbers(config, "transformer_layers_per_block", 1, count)
    return tuple(map(Stage, channels, blocks, heads, depths, down, reversed(up)))


def _numbers(config: Section, key: str, default: int, count: int) -> tuple[int, ...]:
    """A positive integer for all stages, or one for each stage."""
    if not isinstance(config.value(key, default), list | tuple):
        return (config.whole(key, default),) * count
    found = config.wholes(key)
    if len(found) != count:
        config.refuse(key, f"must be one number, or {count}, like block_out_channels, not {list(found)}")
    return found


def _added(config: Section) -> Added | None:
    config.ignore("addition_embed_type_num_heads")  # it belongs to other types
    kind = config.one_of("addition_embed_type", {None: False, "text_time": True}, None)
    if not kind:
        for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            config.one_of(key, {None: None}, None)
        return None
    features, inputs = config.whole("addition_time_embed_dim"), config.whole("projection_class_embeddings_input_dim")
    if features % 2:
        config.refuse("addition_time_embed_dim", f"must be even, not {features}")
    if inputs <= SIZES * features:
        config.refuse(
            "projection_class_embeddings_input_dim",
            f"must be greater than {SIZES} times addition_time_embed_dim, {SIZES * features}, not {inputs}",
        )
    return Added(features, inputs - SIZES * features)
