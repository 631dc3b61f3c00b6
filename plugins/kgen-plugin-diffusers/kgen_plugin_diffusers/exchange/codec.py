"""kgen's own KL autoencoder as an `AutoencoderKL` of diffusers, where that class can hold it.

The two classes differ in three ways:

- The normalizations of kgen's add 1e-5 to the variance, and those of diffusers 1e-6. The normalization of s x with
  s^2 1e-5 equals that of x with 1e-5. So all activations that are normalized are scaled by s = sqrt(0.1).
- diffusers has more residual blocks: two in the middle of both networks, at least one in each stage, and one more in
  each stage of the decoder network. Those that kgen does not have get kernels of zero, so that they change nothing.
- diffusers has one number of groups, and keeps the number of channels between two stages. So all stages get the number
  of channels of the widest one. The added channels are zero everywhere. They are whole groups of the normalizations, so
  that the groups of the others stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder

from kgen import ConfigError
from kgen.nn import group_count
from kgen_plugin_diffusers.exchange.model import Model
from kgen_plugin_diffusers.layers import EPSILON
from kgen_plugin_diffusers.networks import DOWN, UP

Arrays = dict[str, np.ndarray]

NOTES = """\
The generator of the run makes latents of unit variance. The autoencoder decodes `latents * std + mean`, where `std` and
`mean` are `latents_std` and `latents_mean` of its configuration, a number per channel.
"""


def from_kl_autoencoder(part: Any) -> Model | None:
    """The decoder `codecs/kl-autoencoder`, which computes the same up to rounding.

    Raises:
        ConfigError: `AutoencoderKL` cannot hold its network. The message names all reasons.
    """
    if not isinstance(part, KLAutoencoder):
        return None
    network, shape = part.network, Shape.of(part)
    stages = len(network.multipliers)
    config = {
        "in_channels": part.image_space.shape[-1],
        "out_channels": part.image_space.shape[-1],
        "latent_channels": part.channels,
        "block_out_channels": [shape.channels] * stages,
        "down_block_types": [next(iter(DOWN))] * stages,
        "up_block_types": [next(iter(UP))] * stages,
        "layers_per_block": shape.blocks,
        "norm_num_groups": shape.groups,
        "mid_block_add_attention": network.attention,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.0,
        "latents_mean": _array(part.scale.mean).tolist(),
        "latents_std": _array(part.scale.deviation).tolist(),
    }
    tensors = {f"encoder.{name}": array for name, array in shape.encoder(part.encoder_network).items()}
    tensors |= {f"decoder.{name}": array for name, array in shape.decoder(part.decoder_network).items()}
    return Model("AutoencoderKL", "vae", config, tensors, NOTES)


@dataclass(frozen=True)
class Shape:
    """The shape of an `AutoencoderKL`, and the tensors of kgen's networks in it.

    Args:
        channels: Number of channels of all stages.
        groups: Number of groups of the normalizations.
        blocks: Number of residual blocks per stage of the encoder network.
        scale: The factor of normalized activations.
    """

    channels: int
    groups: int
    blocks: int
    scale: float

    @classmethod
    def of(cls, part: KLAutoencoder) -> Shape:
        """The smallest shape that holds a network. Raises ConfigError if there is none."""
        network, norm = part.network, part.decoder_network.norm
        channels = [network.channels(stage) for stage in range(len(network.multipliers))]
        blocks = [network.block_count(stage) for stage in range(len(channels))]
        sizes = {number // group_count(number, norm.groups, norm.min_channels) for number in channels}
        heads = part.decoder_network.attention.attention.heads if network.attention else 1
        problems = {
            "patch is not 1": network.patch != 1,
            f"the normalizations of its stages have groups of {_listed(sizes)} channels": len(sizes) > 1,
            "the last stage has more than one of the blocks, and attention follows them": network.attention
            and blocks[-1] > 1,
            "attention has several heads, with 128 channels or more": heads > 1,
        }
        if found := [problem for problem, holds in problems.items() if holds]:
            raise ConfigError(f"AutoencoderKL of diffusers cannot hold its network: {'; '.join(found)}")
        scale = float(np.sqrt(EPSILON / norm.epsilon))
        return cls(max(channels), max(channels) // sizes.pop(), max(1, *blocks), scale)

    def encoder(self, network: Any) -> Arrays:
        s, last = self.scale, network.stages[-1]
        tensors = self._conv("conv_in", network.conv_in, s, s, inner="out")
        for stage in network.stages:
            tensors |= self._blocks(f"down_blocks.{stage}", network.blocks[stage], self.blocks)
            if stage != last:
                tensors |= self._conv(f"down_blocks.{stage}.downsamplers.0.conv", network.downsample[stage], 1.0, s)
        return tensors | self._blocks("mid_block", [], 2) | self._attention(network) | self._end(network)

    def decoder(self, network: Any) -> Arrays:
        s, last = self.scale, network.stages[-1]
        tensors = self._conv("conv_in", network.conv_in, s, s, inner="out")
        middle = [] if network.attention is None else network.blocks[last]  # the last stage's block precedes attention
        tensors |= self._blocks("mid_block", middle, 2)
        for stage in network.stages:
            place = f"up_blocks.{last - stage}"
            blocks = [] if middle and stage == last else network.blocks[stage]
            tensors |= self._blocks(place, blocks, self.blocks + 1)
            if stage != 0:
                tensors |= self._conv(f"{place}.upsamplers.0.conv", network.upsample[stage - 1], 1.0, s)
        return tensors | self._attention(network) | self._end(network)

    def _end(self, network: Any) -> Arrays:
        tensors = self._norm("conv_norm_out", network.norm)
        return tensors | self._conv("conv_out", network.conv_out, 1.0, 1.0, inner="in")

    def _blocks(self, place: str, blocks: Sequence[Any], count: int) -> Arrays:
        """Residual blocks, and then blocks that change nothing, up to a number of blocks."""
        tensors: Arrays = {}
        for number in range(count):
            name = f"{place}.resnets.{number}"
            for i in (1, 2):
                if number < len(blocks):
                    tensors |= self._norm(f"{name}.norm{i}", getattr(blocks[number], f"norm{i}"))
                    tensors |= self._conv(
                        f"{name}.conv{i}", getattr(blocks[number], f"conv{i}"), self.scale, self.scale
                    )
                    continue
                zeros = np.zeros(self.channels, "float32")
                tensors |= {f"{name}.norm{i}.weight": zeros + 1, f"{name}.norm{i}.bias": zeros}
                tensors |= {f"{name}.conv{i}.bias": zeros, f"{name}.conv{i}.weight": self._zero_kernel()}
        return tensors

    def _zero_kernel(self) -> np.ndarray:
        return np.zeros((self.channels, self.channels, 3, 3), "float32")

    def _attention(self, network: Any) -> Arrays:
        if network.attention is None:
            return {}
        layer, place = network.attention, "mid_block.attentions.0"
        qkv, out = layer.attention.qkv, layer.attention.out
        kernels, biases = np.split(_array(qkv.kernel), 3, axis=1), np.split(_array(qkv.bias), 3)
        query = math.sqrt(self.channels / len(biases[0]))  # diffusers divides by the root of the padded number
        tensors = self._norm(f"{place}.group_norm", layer.norm)
        for name, kernel, bias in zip(("to_q", "to_k", "to_v"), kernels, biases, strict=True):
            tensors |= self._dense(f"{place}.{name}", kernel, bias, query if name == "to_q" else 1.0)
        return tensors | self._dense(f"{place}.to_out.0", _array(out.kernel), _array(out.bias), self.scale)

    def _norm(self, name: str, layer: Any) -> Arrays:
        return {
            f"{name}.weight": self._padded(_array(layer.gain), 0),
            f"{name}.bias": self._padded(_array(layer.bias), 0),
        }

    def _dense(self, name: str, kernel: np.ndarray, bias: np.ndarray, factor: float) -> Arrays:
        return {f"{name}.weight": self._padded(kernel.T * factor, 0, 1), f"{name}.bias": self._padded(bias * factor, 0)}

    def _conv(
        self, name: str, layer: Any, kernel: float, bias: float, inner: Literal["both", "in", "out"] = "both"
    ) -> Arrays:
        """A convolution, whose kernel and bias are multiplied by factors.

        Args:
            inner: Whether the input, the output or both have the channels of a stage.
        """
        axes = {"both": (0, 1), "in": (1,), "out": (0,)}[inner]
        weights, offsets = _array(layer.kernel).transpose(3, 2, 0, 1) * kernel, _array(layer.bias) * bias
        return {
            f"{name}.weight": self._padded(weights, *axes),
            f"{name}.bias": self._padded(offsets, *(axis for axis in axes if axis == 0)),
        }

    def _padded(self, array: np.ndarray, *axes: int) -> np.ndarray:
        """The array in float32, with zeros at the end of axes, which get the length `channels`."""
        pads = [(0, self.channels - length if axis in axes else 0) for axis, length in enumerate(array.shape)]
        return np.ascontiguousarray(np.pad(array, pads), dtype="float32")


def _listed(numbers: set[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))


def _array(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32")))
