"""The encoder and decoder network of diffusers' autoencoders, and their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from kgen import Space, SpaceError
from kgen.nn import conv3x3
from kgen.pretrained import Section
from kgen_plugin_diffusers.layers import Blocks, Shape, Tensor, group_norm

DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
"""The types of blocks, and whether they have attention."""


@dataclass(frozen=True)
class Network:
    """The options of both networks.

    Args:
        image_channels: Number of channels of the images.
        latent_channels: Number of channels of the latents.
        channels: Number of channels of each stage of the encoder network. Each stage but the first has half the height
            and width of the stage before.
        blocks: Number of residual blocks per stage of the encoder network. The decoder network has one more.
        groups: Number of groups of the normalizations.
        down, up: Whether each stage has attention, in the order of the computation.
        attention: Whether there is attention between the two networks' halves, where the size is smallest.
    """

    image_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    blocks: int
    groups: int
    down: tuple[bool, ...]
    up: tuple[bool, ...]
    attention: bool

    @property
    def factor(self) -> int:
        """Height and width of an image over those of its latent."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def read(cls, config: Section, latent_channels: int) -> Network:
        """Reads the keys of the networks. Missing keys have the defaults of diffusers.

        Args:
            config: The configuration of the model.
            latent_channels: The default of the key `latent_channels`.

        Raises:
            ConfigError: a value is wrong, or stands for something that kgen does not have. The message names the key.
        """
        channels = config.wholes("block_out_channels", (64,))
        groups = config.whole("norm_num_groups", 32)
        if odd := [number for number in channels if number % groups]:
            config.refuse("block_out_channels", f"must be multiples of norm_num_groups, {groups}, but one is {odd[0]}")
        config.one_of("act_fn", {"silu": None, "swish": None}, "silu")
        images = config.whole("in_channels", 3)
        config.one_of("out_channels", {images: None}, 3)
        config.ignore("sample_size")  # only diffusers' tiles have this size
        config.ignore("force_upcast")  # it is about pipelines in float16
        return cls(
            image_channels=images,
            latent_channels=config.whole("latent_channels", latent_channels),
            channels=channels,
            blocks=config.whole("layers_per_block", 1),
            groups=groups,
            down=block_types(config, "down_block_types", DOWN, len(channels)),
            up=block_types(config, "up_block_types", UP, len(channels)),
            attention=config.one_of("mid_block_add_attention", {True: True, False: False}, True),
        )

    def grid(self, space: Space) -> tuple[int, int]:
        """The height and width of the latents of images.

        Raises:
            SpaceError: the factor does not divide the images, or they have another number of channels.
        """
        if space.kind != "continuous" or len(space.shape) != 3 or space.shape[-1] != self.image_channels:
            raise SpaceError(
                f"this autoencoder needs images of shape (height, width, {self.image_channels}), not {space}"
            )
        height, width, _ = space.shape
        if height % self.factor or width % self.factor:
            raise SpaceError(
                f"this autoencoder needs a height and a width divisible by {self.factor}, but the images are "
                f"{height}x{width}: change the size of the dataset"
            )
        return height // self.factor, width // self.factor


def block_types(
    config: Section, key: str, known: Mapping[str, bool], count: int, default: Sequence[str] = ()
) -> tuple[bool, ...]:
    """Reads the types of the blocks of all stages.

    Args:
        config: The configuration.
        key: The key.
        known: The types, and whether they have attention.
        count: Number of stages.
        default: The types if the key is missing; (): one stage of the first known type.

    Returns:
        Whether each stage has attention.

    Raises:
        ConfigError: there is another number of types, or an unknown one.
    """
    types = config.value(key, default or [next(iter(known))])
    if not isinstance(types, list | tuple) or len(types) != count:
        config.refuse(key, f"must be a list of {count} types, like block_out_channels, not {types!r:.80}")
    if odd := [name for name in types if name not in known]:
        config.refuse(key, f"must be {' or '.join(map(repr, known))} in each stage, not {odd[0]!r:.80}")
    return tuple(known[name] for name in types)


class EncoderNetwork(keras.layers.Layer):
    """Maps images to features: (B, H, W, C) -> (B, H / factor, W / factor, out_channels).

    Args:
        network: The options.
        out_channels: Number of channels of the output.
    """

    def __init__(self, network: Network, out_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy, last = self.dtype_policy, len(network.channels) - 1
        self.conv_in = conv3x3(network.channels[0], policy, "conv_in")
        self.down_blocks = [
            Blocks(
                channels,
                network.blocks,
                network.blocks if network.down[stage] else 0,
                network.groups,
                "down" if stage != last else "",
                dtype=policy,
                name=f"down{stage}",
            )
            for stage, channels in enumerate(network.channels)
        ]
        self.mid_block = _middle(network, policy)
        self.conv_norm_out = group_norm(network.groups, policy, "conv_norm_out")
        self.conv_out = conv3x3(out_channels, policy, "conv_out")

    def build(self, x_shape: Shape) -> None:
        _build(x_shape, self.conv_in, [*self.down_blocks, self.mid_block, self.conv_norm_out, self.conv_out])

    def call(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x)
        return self.conv_out(ops.silu(self.conv_norm_out(x)))


class DecoderNetwork(keras.layers.Layer):
    """Maps features to images: (B, h, w, C) -> (B, h * factor, w * factor, image_channels).

    Args:
        network: The options.
    """

    def __init__(self, network: Network, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy, blocks = self.dtype_policy, network.blocks + 1
        self.conv_in = conv3x3(network.channels[-1], policy, "conv_in")
        self.mid_block = _middle(network, policy)
        self.up_blocks = [
            Blocks(
                channels,
                blocks,
                blocks if network.up[stage] else 0,
                network.groups,
                "up" if stage != len(network.channels) - 1 else "",
                dtype=policy,
                name=f"up{stage}",
            )
            for stage, channels in enumerate(reversed(network.channels))
        ]
        self.conv_norm_out = group_norm(network.groups, policy, "conv_norm_out")
        self.conv_out = conv3x3(network.image_channels, policy, "conv_out")

    def build(self, z_shape: Shape) -> None:
        _build(z_shape, self.conv_in, [self.mid_block, *self.up_blocks, self.conv_norm_out, self.conv_out])

    def call(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x)
        return self.conv_out(ops.silu(self.conv_norm_out(x)))


def _middle(network: Network, policy: Any) -> Blocks:
    """The blocks of the smallest size, in both networks."""
    return Blocks(network.channels[-1], 2, int(network.attention), network.groups, dtype=policy, name="mid_block")


def _build(shape: Shape, first: keras.layers.Layer, rest: list[keras.layers.Layer]) -> None:
    """Builds layers of any height and width, each of which gets the channels of the one before."""
    first.build(shape)
    channels = first.filters
    for layer in rest:
        layer.build((None, None, None, channels))
        channels = getattr(layer, "channels", channels)
