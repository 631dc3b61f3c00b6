"""The names of keras-cv's weights in the packages diffusers and transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

import kgen
from kgen.pretrained import Source

MODULES: dict[str, dict[str, str]] = {
    "PaddedConv2D": {"conv2d": ""},
    "ResnetBlock": {
        "norm1": "norm1",
        "conv1/conv2d": "conv1",
        "norm2": "norm2",
        "conv2/conv2d": "conv2",
        "residual_projection/conv2d": "conv_shortcut",
    },
    "AttentionBlock": {
        "norm": "group_norm",
        "q/conv2d": "to_q",
        "k/conv2d": "to_k",
        "v/conv2d": "to_v",
        "proj_out/conv2d": "to_out.0",
    },
    "CLIPEmbedding": {"token_embedding": "token_embedding", "position_embedding": "position_embedding"},
    "CLIPEncoderLayer": {
        "layer_norm1": "layer_norm1",
        **{f"clip_attn/{name}": f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")},
        "layer_norm2": "layer_norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    "ResBlock": {
        "entry_flow/0": "norm1",
        "entry_flow/2/conv2d": "conv1",
        "embedding_flow/1": "time_emb_proj",
        "exit_flow/0": "norm2",
        "exit_flow/2/conv2d": "conv2",
        "residual_projection/conv2d": "conv_shortcut",
    },
    "SpatialTransformer": {
        "norm": "norm",
        "proj1/conv2d": "proj_in",
        "proj1": "proj_in",  # a dense layer in version 2
        **{f"transformer_block/norm{number}": f"transformer_blocks.0.norm{number}" for number in (1, 2, 3)},
        **{
            f"transformer_block/attn{number}/{here}": f"transformer_blocks.0.attn{number}.{there}"
            for number in (1, 2)
            for here, there in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("out_proj", "to_out.0"))
        },
        "transformer_block/geglu/dense": "transformer_blocks.0.ff.net.0.proj",
        "transformer_block/dense": "transformer_blocks.0.ff.net.2",
        "proj2/conv2d": "proj_out",
        "proj2": "proj_out",
    },
    "Upsample": {"conv/conv2d": "conv"},
}
"""The modules by the layers inside of keras-cv's layers; any other layer is one module."""

KINDS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
"""The names of the weights of a layer."""


def named(layers: Iterable[keras.layers.Layer], modules: Sequence[str]) -> tuple[dict[str, Any], dict[str, Source]]:
    """The weights of layers by name, and the source of each.

    Args:
        layers: The layers of a model, in the order of `modules`. Those without weights are skipped.
        modules: The name of the module that each layer with weights is.
    """
    weights: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    with_weights = [layer for layer in layers if layer.weights]
    for layer, module in zip(with_weights, modules, strict=True):
        for path, variable in kgen.weight_paths(layer, layer.weights).items():
            name, form = _source(type(layer).__name__, path, variable)
            weights[f"{module}/{path}"] = variable
            sources[f"{module}/{path}"] = Source((".".join(filter(None, (module, name))),), form)
    return weights, sources


def _source(kind: str, path: str, variable: Any) -> tuple[str, Any]:
    """The name of a weight inside of its module, and the form of the tensor; see `Source`."""
    owner, _, weight = path.rpartition("/")
    module = MODULES[kind][owner] if kind in MODULES else owner
    name = ".".join(filter(None, (module, KINDS[weight])))
    if weight != "kernel":
        return name, "plain"
    if kind == "AttentionBlock":
        return name, "pointwise"  # 1x1 convolutions here, dense layers there
    return name, "convolution" if len(variable.shape) == 4 else "transposed"


def text_encoder_modules(layers: Sequence[keras.layers.Layer]) -> list[str]:
    """The modules of the layers of a `TextEncoder`: the embedding, the blocks, and a normalization."""
    blocks = sum(type(layer).__name__ == "CLIPEncoderLayer" for layer in layers)
    return [
        "text_model.embeddings",
        *(f"text_model.encoder.layers.{number}" for number in range(blocks)),
        "text_model.final_layer_norm",
    ]


SIZES = 4
"""Number of sizes of the features of an autoencoder, and of a diffusion model."""


def image_encoder_modules() -> list[str]:
    """The modules of the layers of an `ImageEncoder`."""
    return [
        "encoder.conv_in",
        *_stages("encoder.down_blocks", ["resnets"] * 2, "downsamplers.0.conv"),
        *_middle("encoder.mid_block"),
        "encoder.conv_norm_out",
        "encoder.conv_out",
        "quant_conv",
    ]


def decoder_modules() -> list[str]:
    """The modules of the layers of a `Decoder`."""
    return [
        "post_quant_conv",
        "decoder.conv_in",
        *_middle("decoder.mid_block"),
        *_stages("decoder.up_blocks", ["resnets"] * 3, "upsamplers.0.conv"),
        "decoder.conv_norm_out",
        "decoder.conv_out",
    ]


def unet_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a `DiffusionModel` with weights, in the order of `unet_modules`: the embedding of time is first."""
    with_weights = [layer for layer in model.layers if layer.weights]
    return sorted(with_weights, key=lambda layer: not isinstance(layer, keras.layers.Dense))


def unet_modules() -> list[str]:
    """The modules of the layers of a `DiffusionModel`. Its smallest size has attention in the middle alone."""
    down = _stages("down_blocks", ["resnets", "attentions"] * 2, "downsamplers.0.conv")
    up = _stages("up_blocks", ["resnets", "attentions"] * 3, "upsamplers.0")
    return [
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "conv_in",
        *(module for module in down if not module.startswith(f"down_blocks.{SIZES - 1}.attentions")),
        *_middle("mid_block"),
        *(module for module in up if not module.startswith("up_blocks.0.attentions")),
        "conv_norm_out",
        "conv_out",
    ]


def _middle(place: str) -> list[str]:
    return [f"{place}.{name}" for name in ("resnets.0", "attentions.0", "resnets.1")]


def _stages(place: str, blocks: Sequence[str], sampler: str) -> Iterator[str]:
    """The blocks of each size, with numbers by kind; a layer changes the size after each but the last."""
    for stage in range(SIZES):
        for place_in_stage, block in enumerate(blocks):
            yield f"{place}.{stage}.{block}.{blocks[:place_in_stage].count(block)}"
        if stage < SIZES - 1:
            yield f"{place}.{stage}.{sampler}"
