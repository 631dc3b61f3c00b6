"""The encoder and decoder network of an autoencoder (as in Esser et al. 2021, table 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen import Space, SpaceError
from kgen.nn import GroupNorm, MultiHeadAttention, RematLayer, Upsample, conv3x3, depth_to_space, space_to_depth

Tensor = Any
Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Stages of residual convolutions. Each has half the height and width of the stage before.

    The downsampling factor is ``patch * 2 ** (stages - 1)``. The networks work on images of every height and width that
    it divides.

    Args:
        width: Number of channels of the first stage.
        multipliers: Number of channels of each stage as a multiple of `width`.
        blocks: Number of residual blocks per stage, in the encoder and in the decoder network: one number, or one for
            each stage, which may be 0. Blocks of the first stage, which has the most positions, take the most time.
        patch: Height and width of the square of pixels that becomes one position of the first stage.
        attention: Whether the last stage has self-attention.
    """

    width: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2)
    blocks: PositiveInt | tuple[NonNegativeInt, ...] = 1
    patch: PositiveInt = 2
    attention: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.blocks, tuple) and len(self.blocks) != len(self.multipliers):
            raise ValueError(
                f"blocks must be one number, or {len(self.multipliers)}, like multipliers, not {list(self.blocks)}"
            )

    @property
    def factor(self) -> int:
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def channels(self, stage: int) -> int:
        return self.width * self.multipliers[stage]

    def block_count(self, stage: int) -> int:
        """Number of residual blocks of a stage."""
        return self.blocks[stage] if isinstance(self.blocks, tuple) else self.blocks

    def grid(self, space: Space) -> tuple[int, int]:
        """Returns the height and width of the latents. Raises SpaceError if the factor does not divide the images."""
        if space.kind != "continuous" or len(space.shape) != 3:
            raise SpaceError(f"an autoencoder needs images of shape (height, width, channels), not {space}")
        height, width, _ = space.shape
        if height % self.factor or width % self.factor:
            raise SpaceError(
                f"an autoencoder with factor {self.factor} needs a height and a width divisible by it, but the images "
                f"are {height}x{width}: change the dataset's size, or network.patch and multipliers"
            )
        return height // self.factor, width // self.factor


class ResidualBlock(RematLayer):
    """A residual block of two normalized convolutions (He et al. 2016)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels = channels
        self.norm1, self.norm2 = (GroupNorm(dtype=policy, name=f"norm{i}") for i in (1, 2))
        self.conv1 = conv3x3(channels, policy, "conv1")
        self.conv2 = conv3x3(channels, policy, "conv2", kernel_initializer="zeros")
        self.shortcut: keras.layers.Layer | None = None

    def build(self, x_shape: Shape) -> None:
        inner = (*x_shape[:-1], self.channels)
        for layer, shape in ((self.norm1, x_shape), (self.conv1, x_shape), (self.norm2, inner), (self.conv2, inner)):
            layer.build(shape)
        if x_shape[-1] != self.channels:
            self.shortcut = keras.layers.Dense(self.channels, dtype=self.dtype_policy, name="shortcut")
            self.shortcut.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, channels)."""
        h = self.conv2(ops.silu(self.norm2(self.conv1(ops.silu(self.norm1(x))))))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Attention(keras.layers.Layer):
    """Self-attention among positions, with a residual connection."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = GroupNorm(dtype=self.dtype_policy, name="norm")

    def build(self, x_shape: Shape) -> None:
        heads = max(1, x_shape[-1] // 64)
        heads = heads if x_shape[-1] % heads == 0 else 1
        self.attention = MultiHeadAttention(
            heads, output_initializer="zeros", dtype=self.dtype_policy, name="attention"
        )
        self.norm.build(x_shape)
        self.attention.build((None, x_shape[1] * x_shape[2], x_shape[3]))

    def call(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        _, height, width, channels = x.shape
        y = ops.reshape(self.norm(x), (-1, height * width, channels))  # (B, h*w, C)
        return x + ops.reshape(self.attention(y), (-1, height, width, channels))


class Half(keras.layers.Layer):
    """Base class of both networks: blocks by stage, and attention in the stage with the fewest positions.

    Args:
        network: Options of the network.
        out_channels: Number of output channels.
    """

    def __init__(self, network: Network, out_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network, self.out_channels = network, out_channels
        policy, self.stages = self.dtype_policy, range(len(network.multipliers))
        self.blocks = [
            [
                ResidualBlock(network.channels(stage), dtype=policy, name=f"stage{stage}_block{i}")
                for i in range(network.block_count(stage))
            ]
            for stage in self.stages
        ]
        self.attention = Attention(dtype=policy, name="attention") if network.attention else None
        self.norm = GroupNorm(dtype=policy, name="norm")

    def _build_stage(self, stage: int, shape: Shape) -> Shape:
        for block in self.blocks[stage]:
            block.build(shape)
            shape = (*shape[:-1], self.network.channels(stage))
        if self.attention is not None and stage == self.stages[-1]:
            self.attention.build(shape)
        return shape

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        for block in self.blocks[stage]:
            x = block(x)
        return x if self.attention is None or stage != self.stages[-1] else self.attention(x)


class EncoderNetwork(Half):
    """Maps images to features: (B, H, W, C) -> (B, H / factor, W / factor, out_channels), float32."""

    def build(self, x_shape: Shape) -> None:
        network, policy = self.network, self.dtype_policy
        height, width = x_shape[1] // network.patch, x_shape[2] // network.patch
        self.conv_in = conv3x3(network.channels(0), policy, "conv_in")
        self.conv_in.build((None, height, width, x_shape[3] * network.patch**2))
        shape: Shape = (None, height, width, network.channels(0))
        self.downsample = [conv3x3(network.channels(s), policy, f"downsample{s}", strides=2) for s in self.stages[1:]]
        for stage in self.stages:
            if stage:
                self.downsample[stage - 1].build(shape)
                shape = (None, shape[1] // 2, shape[2] // 2, network.channels(stage))
            shape = self._build_stage(stage, shape)
        self.norm.build(shape)
        self.conv_out = conv3x3(self.out_channels, policy, "conv_out")
        self.conv_out.build(shape)

    def call(self, x: Tensor) -> Tensor:
        x = self.conv_in(space_to_depth(x, self.network.patch))
        for stage in self.stages:
            x = self._stage(stage, self.downsample[stage - 1](x) if stage else x)
        return ops.cast(self.conv_out(ops.silu(self.norm(x))), "float32")


class DecoderNetwork(Half):
    """Maps features to images: (B, h, w, C) -> (B, h * factor, w * factor, out_channels), float32."""

    def build(self, z_shape: Shape) -> None:
        network, policy = self.network, self.dtype_policy
        last = self.stages[-1]
        self.conv_in = conv3x3(network.channels(last), policy, "conv_in")
        self.conv_in.build(z_shape)
        shape: Shape = (*z_shape[:-1], network.channels(last))
        self.upsample = [Upsample(network.channels(s), dtype=policy, name=f"upsample{s}") for s in self.stages[:-1]]
        for stage in reversed(self.stages):
            if stage != last:
                self.upsample[stage].build(shape)
                shape = (None, shape[1] * 2, shape[2] * 2, network.channels(stage))
            shape = self._build_stage(stage, shape)
        self.norm.build(shape)
        self.conv_out = conv3x3(self.out_channels * network.patch**2, policy, "conv_out")
        self.conv_out.build(shape)

    def call(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for stage in reversed(self.stages):
            x = self._stage(stage, x if stage == self.stages[-1] else self.upsample[stage](x))
        x = depth_to_space(self.conv_out(ops.silu(self.norm(x))), self.network.patch)
        return ops.cast(x, "float32")
