"""kgen's own KL autoencoder as an `AutoencoderKL` of diffusers, where that class can hold it.

The two classes differ in three ways:

- The normalizations of kgen's add 1e-5 to the variance, and those of diffusers 1e-6. The normalization of s x with
  s^2 1e-5 equals that of x with 1e-5. So all activations that are normalized are scaled by s = sqrt(0.1).
- diffusers has more residual blocks: two in the middle of both networks, and one more in each stage of the decoder
  network. They get kernels of zero, so that they change nothing.
- Between two stages, diffusers keeps the number of channels, so that all stages need the same number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder

from kgen import ConfigError
from kgen.nn import group_count
from kgen_plugin_diffusers.exchange.model import Model
from kgen_plugin_diffusers.layers import EPSILON
from kgen_plugin_diffusers.networks import DOWN, UP

Arrays = dict[str, np.ndarray]


def from_kl_autoencoder(part: Any) -> Model | None:
    """The decoder `codecs/kl-autoencoder`, which computes the same up to rounding."""
    if not isinstance(part, KLAutoencoder):
        return None
    network, last = part.network, len(part.network.multipliers) - 1
    _check(part)
    config = {
        "in_channels": part.image_space.shape[-1],
        "out_channels": part.image_space.shape[-1],
        "latent_channels": part.channels,
        "block_out_channels": [network.channels(stage) for stage in range(last + 1)],
        "down_block_types": [next(iter(DOWN))] * (last + 1),
        "up_block_types": [next(iter(UP))] * (last + 1),
        "layers_per_block": network.blocks,
        "norm_num_groups": _groups(part),
        "mid_block_add_attention": network.attention,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.0,
        "latents_mean": _array(part.scale.mean).tolist(),
        "latents_std": _array(part.scale.deviation).tolist(),
    }
    tensors = {f"encoder.{name}": array for name, array in _encoder(part.encoder_network).items()}
    tensors |= {f"decoder.{name}": array for name, array in _decoder(part.decoder_network).items()}
    return Model("AutoencoderKL", "vae", config, tensors)


def _check(part: KLAutoencoder) -> None:
    network = part.network
    problems = {
        "patch is not 1": network.patch != 1,
        "multipliers are not equal": len(set(network.multipliers)) > 1,
        "blocks is not 1, and attention follows them": network.attention and network.blocks > 1,
        "attention has several heads, with 128 channels or more": network.attention and _heads(part) > 1,
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise ConfigError(f"AutoencoderKL of diffusers cannot hold its network: {'; '.join(found)}")


def _heads(part: KLAutoencoder) -> int:
    return int(part.decoder_network.attention.attention.heads)


def _groups(part: KLAutoencoder) -> int:
    norm = part.decoder_network.norm
    return group_count(part.network.channels(0), norm.groups, norm.min_channels)


def _shrink(norm: Any) -> float:
    """The factor s of normalized activations."""
    return float(np.sqrt(EPSILON / norm.epsilon))


def _encoder(network: Any) -> Arrays:
    s, last = _shrink(network.norm), network.stages[-1]
    tensors = _conv("conv_in", network.conv_in, s, s)
    for stage in network.stages:
        for i, block in enumerate(network.blocks[stage]):
            tensors |= _block(f"down_blocks.{stage}.resnets.{i}", block, s)
        if stage != last:
            tensors |= _conv(f"down_blocks.{stage}.downsamplers.0.conv", network.downsample[stage], 1.0, s)
    idle = network.blocks[last][0]
    tensors |= _idle_block("mid_block.resnets.0", idle) | _idle_block("mid_block.resnets.1", idle)
    return tensors | _attention(network, s) | _end(network)


def _decoder(network: Any) -> Arrays:
    s, last = _shrink(network.norm), network.stages[-1]
    tensors = _conv("conv_in", network.conv_in, s, s)
    idle, middle = network.blocks[last][0], network.attention is not None  # the last stage's block precedes attention
    tensors |= _block("mid_block.resnets.0", idle, s) if middle else _idle_block("mid_block.resnets.0", idle)
    tensors |= _idle_block("mid_block.resnets.1", idle)
    for stage in network.stages:
        place = f"up_blocks.{last - stage}"
        blocks = network.blocks[stage]
        for i, block in enumerate(blocks):
            moved = middle and stage == last
            name = f"{place}.resnets.{i}"
            tensors |= _idle_block(name, block) if moved else _block(name, block, s)
        tensors |= _idle_block(f"{place}.resnets.{len(blocks)}", idle)
        if stage != 0:
            tensors |= _conv(f"{place}.upsamplers.0.conv", network.upsample[stage - 1], 1.0, s)
    return tensors | _attention(network, s) | _end(network)


def _end(network: Any) -> Arrays:
    return _norm("conv_norm_out", network.norm) | _conv("conv_out", network.conv_out, 1.0, 1.0)


def _attention(network: Any, s: float) -> Arrays:
    if network.attention is None:
        return {}
    layer, place = network.attention, "mid_block.attentions.0"
    qkv, out = layer.attention.qkv, layer.attention.out
    kernels, biases = np.split(_array(qkv.kernel), 3, axis=1), np.split(_array(qkv.bias), 3)
    tensors = _norm(f"{place}.group_norm", layer.norm)
    for name, kernel, bias in zip(("to_q", "to_k", "to_v"), kernels, biases, strict=True):
        tensors |= {f"{place}.{name}.weight": _own(kernel.T), f"{place}.{name}.bias": _own(bias)}
    return tensors | {
        f"{place}.to_out.0.weight": _own(_array(out.kernel).T * s),
        f"{place}.to_out.0.bias": _own(_array(out.bias) * s),
    }


def _block(name: str, block: Any, s: float) -> Arrays:
    tensors: Arrays = {}
    for number in (1, 2):
        tensors |= _norm(f"{name}.norm{number}", getattr(block, f"norm{number}"))
        tensors |= _conv(f"{name}.conv{number}", getattr(block, f"conv{number}"), s, s)
    return tensors


def _idle_block(name: str, like: Any) -> Arrays:
    """A block of the shape of another one, whose convolutions are zero."""
    tensors = _block(name, like, 0.0)
    return {key: np.ones_like(array) if ".norm" in key else array for key, array in tensors.items()}


def _norm(name: str, layer: Any) -> Arrays:
    return {f"{name}.weight": _array(layer.gain), f"{name}.bias": _array(layer.bias)}


def _conv(name: str, layer: Any, kernel: float, bias: float) -> Arrays:
    return {
        f"{name}.weight": _own(_array(layer.kernel).transpose(3, 2, 0, 1) * np.float32(kernel)),
        f"{name}.bias": _own(_array(layer.bias) * np.float32(bias)),
    }


def _array(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32")))


def _own(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype="float32")
