"""The options of networks: a configuration has ``network: {kind: dit, width: 192}``, and `build` makes the layer.

A network is a Keras layer, called as ``network(x, noise_level, condition, training=...)``:
    x: (B, H, W, C), or (B, N) for a network of vectors.
    noise_level: (B,) float32, noise level of x on a scale of about 1000: the timestep, 1000 t, 250 log(sigma) ...
    condition: "sequence" (B, L, D), to which the network attends where "mask" (B, L) is 1, and "pooled" (B, P), which
        is added to the embedding of the noise level.
It returns (B, H, W, out_channels), or (B, out_channels), in float32, which is 0 everywhere before training, unless the
layer is `Pretrained`.

Any plugin can add one: ``registry.add("diffusion.network", "mine", "package.module:Mine", summary=...)``. The target is
a class with the methods of `Network`, such as a frozen dataclass whose fields are its options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import keras
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Space, SpaceError
from kgen.nn import UNetLayer, check_levels
from kgen_plugin_diffusion.networks.dit import DiTLayer


class Network(Protocol):
    """The protocol of a `diffusion.network`: the options of a network, from which `build` makes the layer.

    If the layer, once it is built, supports any height and width that `check` accepts, the class sets ``any_shape =
    True``.
    """

    def check(self, space: Space) -> None:
        """Raises SpaceError if the network cannot work in `space`."""

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its first call, or its `build`, creates every weight."""


@runtime_checkable
class Pretrained(Protocol):
    """The protocol of a network's layer that has trained weights, which it reads from files.

    It reads the files in `build`, or before, but not if `load_assets` was called: its weights are then loaded, too.
    """

    def build(self, x_shape: Any, condition_shape: Mapping[str, Any]) -> None:
        """Creates every weight, and assigns those in the files.

        Raises:
            SpaceError: the network does not fit such latents or conditions.
        """

    def save_assets(self, path: str | Path) -> None:
        """Writes what was read from the files, except weights, to a folder."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote."""


@runtime_checkable
class ChecksSpace(Protocol):
    """The protocol of a network's layer that knows from its files which sizes it supports."""

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the built network, as the files describe it, does not fit latents of this size."""


@dataclass(frozen=True)
class UNet:
    """A U-Net with self-attention and cross-attention to the text (Dhariwal and Nichol 2021; Rombach et al. 2022).

    Args:
        width: Number of channels of the first level.
        multipliers: Number of channels of each level as a multiple of `width`. Each level has half the height and width
            of the level before.
        blocks: Number of residual blocks per level on the way down. There is one more on the way up.
        attention: Levels with attention, counted from 0. The middle always has attention.
        head_dim: Number of channels per attention head. It must divide the channels of the levels with attention, and
            of the last level.
        dropout: Dropout rate in the residual blocks, in [0, 1).
        groups: Largest number of groups of the group normalizations. A normalization has the largest number up to it
            that divides its channels into groups of two or more.
    """

    width: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2)
    blocks: PositiveInt = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2)
    head_dim: PositiveInt = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    groups: PositiveInt = 32

    any_shape: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_levels(self.width, self.multipliers, self.attention, self.head_dim)

    @property
    def stride(self) -> int:
        """Returns the number that must divide the image's height and width."""
        return int(2 ** (len(self.multipliers) - 1))

    def check(self, space: Space) -> None:
        """Raises SpaceError if the network cannot work in `space`."""
        _check(space, self.stride, "U-Net", f"{len(self.multipliers)} levels", "use fewer multipliers")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its first call, or its `build`, creates every weight."""
        self.check(space)
        return UNetLayer(
            out_channels=out_channels,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            head_dim=self.head_dim,
            dropout=self.dropout,
            groups=self.groups,
            name="unet",
        )


@dataclass(frozen=True)
class DiT:
    """A diffusion transformer with adaLN-zero (Peebles and Xie 2023) and attention to the text (Chen et al. 2023).

    Args:
        patch: Height and width of the square of pixels that becomes one token.
        width: Dimension of a token, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of `width`.
        dropout: Dropout rate on the output of each attention and MLP, in [0, 1).
    """

    patch: PositiveInt = 4
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 6
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    any_shape: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} is not divisible into {self.heads} heads: change width or heads")

    @property
    def stride(self) -> int:
        """Returns the number that must divide the image's height and width."""
        return self.patch

    def check(self, space: Space) -> None:
        """Raises SpaceError if the network cannot work in `space`."""
        _check(space, self.stride, "DiT", f"patches of {self.patch}", "use another patch")

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its first call, or its `build`, creates every weight."""
        self.check(space)
        return DiTLayer(
            out_channels=out_channels,
            patch=self.patch,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            name="dit",
        )


def _check(space: Space, stride: int, name: str, reason: str, remedy: str) -> None:
    if space.kind != "continuous" or len(space.shape) != 3:
        raise SpaceError(
            f"a {name} works on continuous latents of shape (height, width, channels), not on {space}: choose another "
            "decoder or network"
        )
    height, width, _ = space.shape
    if height % stride or width % stride:
        raise SpaceError(
            f"a {name} with {reason} needs a height and a width divisible by {stride}, but the latents are "
            f"{height}x{width}: change the size of the images to a multiple of {stride}, or {remedy}"
        )
