"""kgen's own U-Net as a `UNet2DConditionModel` of diffusers.

The class computes the same with these options: the embedding scales and shifts (`resnet_time_scale_shift`), the pooled
text is added to the embedding of the time (`class_embed_type: projection`), and a downsampling pads at the right and
the bottom (`downsample_padding: 0`). It has one number of groups for all normalizations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import kgen
from kgen import ConfigError
from kgen.nn import UNetLayer, group_count
from kgen_plugin_diffusers.exchange.model import Model, tensors_of
from kgen_plugin_diffusers.unet.architecture import DOWN, UP

PLACES = {
    "embedding/level_in": "time_embedding/linear_1",
    "embedding/level_out": "time_embedding/linear_2",
    "embedding/pooled_in": "class_embedding/linear_1",
    "embedding/pooled_out": "class_embedding/linear_2",
    "middle_in/residual": "mid_block/resnets/0",
    "middle_in/transformer": "mid_block/attentions/0",
    "middle_out/residual": "mid_block/resnets/1",
    "norm_out": "conv_norm_out",
}
"""The layers that have other places in diffusers, except those of the levels."""

RESIDUAL = {"modulation": "time_emb_proj", "shortcut": "conv_shortcut"}
TRANSFORMER = {
    "inwards": "proj_in",
    "outwards": "proj_out",
    "norm1": "transformer_blocks/0/norm1",
    "norm2": "transformer_blocks/0/norm2",
    "norm3": "transformer_blocks/0/norm3",
    "self_attention": "transformer_blocks/0/attn1",
    "cross_attention": "transformer_blocks/0/attn2",
    "cross_attention/v": "transformer_blocks/0/attn2/to_v",
    "hidden": "transformer_blocks/0/ff/widen",
    "shrink": "transformer_blocks/0/ff/narrow",
}
"""The layers of a block that have other names in diffusers, or in `names.MODULES`."""

NOTES = """\
The U-Net reads the conditions of the run's own encoder, which is in the run and not in this folder: its "sequence" is
`encoder_hidden_states`, its "mask" is `encoder_attention_mask`, and its "pooled" is `class_labels`. `timestep` is the
noise level on a scale of 1000. So this is no `StableDiffusionPipeline`, which has a text encoder of CLIP, and which
passes neither a mask nor a pooled text.
"""


def from_unet(part: Any) -> Model | None:
    """A generator with the network `diffusion/unet`, which computes the same up to rounding.

    Raises:
        ConfigError: the normalizations of the network have different numbers of groups.
    """
    layer = getattr(part, "model", None)
    if not isinstance(layer, UNetLayer):
        return None
    return Model("UNet2DConditionModel", "unet", _config(part, layer), _tensors(layer), NOTES)


def _config(part: Any, layer: UNetLayer) -> dict[str, Any]:
    levels = range(len(layer.multipliers))
    channels = [layer.width * multiplier for multiplier in layer.multipliers]
    down, up = ({attends: name for name, attends in types.items()} for types in (DOWN, UP))
    return {
        "sample_size": list(part.space.shape[:2]),
        "in_channels": part.space.shape[-1],
        "out_channels": layer.out_channels,
        "block_out_channels": channels,
        "layers_per_block": layer.blocks,
        "down_block_types": [down[level in layer.attention] for level in levels],
        "up_block_types": [up[level in layer.attention] for level in reversed(levels)],
        "attention_head_dim": [max(1, number // layer.head_dim) for number in channels],  # it means the heads
        "cross_attention_dim": part.condition_space.dim,
        "use_linear_projection": True,
        "norm_num_groups": _groups(layer),
        "norm_eps": layer.norm_out.epsilon,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_padding": 0,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": part.condition_space.pooled_dim,
    }


def _groups(layer: UNetLayer) -> int:
    """The number of groups of all normalizations. Raises ConfigError if they have different numbers."""
    sizes = [weight.shape[0] for path, weight in kgen.weight_paths(layer).items() if path.endswith("/gain")]
    counts = {group_count(size, layer.groups, layer.norm_out.min_channels) for size in sizes}
    if len(counts) == 1:
        return counts.pop()
    most = min(sizes) // layer.norm_out.min_channels
    fitting = max(number for number in range(1, most + 1) if math.gcd(*sizes) % number == 0)
    raise ConfigError(
        f"UNet2DConditionModel of diffusers has one number of groups for all normalizations, and those of this U-Net "
        f"have {' and '.join(map(str, sorted(counts)))} groups: train it with the option 'groups: {fitting}'"
    )


def _tensors(layer: UNetLayer) -> dict[str, np.ndarray]:
    tensors = tensors_of(layer, lambda path: _place(path, layer))
    for name, tensor in list(tensors.items()):
        if name.endswith("conv_shortcut.weight"):
            tensors[name] = tensor[:, :, None, None]  # a dense layer of kgen is a 1x1 convolution
        elif name.endswith("attn2.to_v.weight"):
            tensors = _idle_queries(name.removesuffix("attn2.to_v.weight"), *tensor.shape) | tensors
    return tensors


def _idle_queries(block: str, channels: int, text: int) -> dict[str, np.ndarray]:
    """What kgen leaves out of an attention to a single position, whose weight is 1 for all queries and keys."""
    return {
        f"{block}attn2.to_q.weight": np.zeros((channels, channels), "float32"),
        f"{block}attn2.to_k.weight": np.zeros((channels, text), "float32"),
        f"{block}norm2.weight": np.ones(channels, "float32"),
        f"{block}norm2.bias": np.zeros(channels, "float32"),
    }


def _place(path: str, layer: UNetLayer) -> str:
    """The path of a weight in a layer whose attributes have the names of diffusers' modules."""
    part, _, rest = path.partition("/")
    if part in ("down", "up"):
        number, kind, rest = rest.split("/", 2)
        level, index = divmod(int(number), layer.blocks + (part == "up"))
        place = f"{part}_blocks/{level}/{'resnets' if kind == 'residual' else 'attentions'}/{index}"
        return f"{place}/{_renamed(rest, RESIDUAL if kind == 'residual' else TRANSFORMER)}"
    if part in ("downsample", "upsample"):
        level, rest = rest.split("/", 1)
        return f"{part.removesuffix('sample')}_blocks/{level}/{part}rs/0/conv/{rest}"
    whole = _renamed(path, PLACES)
    if part in ("middle_in", "middle_out"):
        block, kind, index, rest = whole.split("/", 3)
        return f"{block}/{kind}/{index}/{_renamed(rest, RESIDUAL if kind == 'resnets' else TRANSFORMER)}"
    return whole


def _renamed(path: str, names: Mapping[str, str]) -> str:
    """The path, whose longest beginning in `names` is replaced."""
    found = max((name for name in names if f"{path}/".startswith(f"{name}/")), key=len, default="")
    return f"{names[found]}{path.removeprefix(found)}" if found else path
