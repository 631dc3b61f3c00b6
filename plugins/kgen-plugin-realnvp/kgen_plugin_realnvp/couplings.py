"""The two kinds of flow, as options: a configuration says ``coupling: {kind: transformer, patch: 4}``.

Each builds a bijection from images (B, H, W, C) to noise of the same shape. Every plugin can add one:
``registry.add("realnvp.coupling", "mine", "package.module:Mine", summary=...)``. It is a class with the methods of
`Coupling`, such as a frozen dataclass whose fields are the options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import keras
import numpy as np
from pydantic import Field, PositiveInt

from kgen import Space, SpaceError
from kgen_plugin_realnvp.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    ChannelMixing,
    FactorOut,
    Squeeze,
    Unsqueeze,
)
from kgen_plugin_realnvp.masks import checkerboard, halves, squeezed_checkerboard
from kgen_plugin_realnvp.networks import ConvolutionalNetwork, TransformerNetwork

Width = Annotated[int, Field(ge=4, multiple_of=4)]
NetworkOf = Callable[[int, str], keras.layers.Layer]
"""(out_channels, name) -> the network of a coupling."""


class Coupling(Protocol):
    """What a `realnvp.coupling` is: the options of a flow, which `build` makes."""

    def check(self, space: Space) -> None:
        """Raises SpaceError where the flow cannot work in `space`."""

    def build(self, space: Space, bound: float) -> Bijection:
        """Makes the flow, in the current dtype policy.

        Args:
            bound: Largest logarithm of a scale.
        """


@dataclass(frozen=True)
class Convolutional:
    """Scales of couplings with convolutional networks (Dinh et al. 2017; with `mixing`, Kingma and Dhariwal 2018).

    Every scale squeezes 2x2 pixels into channels; couplings over the checkerboard of these pixels and couplings over
    halves of the channels follow; half of the channels are then done, and the others go on to the next scale.

    Args:
        scales: Each halves height and width.
        couplings: Of each of the two kinds, a scale; consecutive ones keep what the other changed.
        width: Channels of a network.
        blocks: Residual blocks of a network.
        text_heads: Heads of attention to the words, in each network; 0: the text is known as a whole only.
        mixing: Whether a learned matrix mixes the channels before each coupling over halves of the channels.
    """

    scales: PositiveInt = 3
    couplings: Annotated[int, Field(ge=2)] = 4
    width: Width = 48
    blocks: PositiveInt = 1
    text_heads: Annotated[int, Field(ge=0)] = 0
    mixing: bool = True

    def __post_init__(self) -> None:
        _check_heads(self.width, text_heads=self.text_heads)

    def check(self, space: Space) -> None:
        """Raises SpaceError where `space` cannot be halved as often as there are scales."""
        height, width, _ = space.shape
        common = math.gcd(height, width)
        fits = (common & -common).bit_length() - 1  # the largest power of 2 that divides both
        if self.scales > fits:
            remedy = f"use at most {fits} of them" if fits else "use an image of even height and width"
            raise SpaceError(
                f"a flow of {self.scales} scales halves the height and width {self.scales} times, but the latents are "
                f"{height}x{width}, which can be halved {fits} times: {remedy}, or multiples of {2**self.scales}"
            )

    def build(self, space: Space, bound: float) -> Bijection:
        """Makes the flow, in the current dtype policy."""
        self.check(space)
        return self._scale(0, space.shape, bound)

    def _scale(self, level: int, shape: tuple[int, ...], bound: float) -> Chain:
        """A scale and all that follow it, as one bijection that keeps the shape."""
        height, width, channels = shape[0] // 2, shape[1] // 2, shape[2] * 4
        masks = [squeezed_checkerboard(height, width, channels, 2), halves(height, width, channels)]
        steps: list[Bijection] = [Squeeze(2, name="squeeze")]
        for i in range(2 * self.couplings):
            mask = masks[i // self.couplings]
            steps.append(ActNorm(name=f"actnorm{i}"))
            if self.mixing and i >= self.couplings:
                steps.append(ChannelMixing(name=f"mixing{i}"))
            steps.append(_coupling(mask if i % 2 == 0 else 1.0 - mask, self._network, bound, i))
        if level + 1 < self.scales:
            rest = self._scale(level + 1, (height, width, channels // 2), bound)
            steps.append(FactorOut(rest, name="factor_out"))
        return Chain([*steps, Unsqueeze(2, name="unsqueeze")], name=f"scale{level}")

    def _network(self, out_channels: int, name: str) -> keras.layers.Layer:
        return ConvolutionalNetwork(out_channels, self.width, self.blocks, self.text_heads, name=name)


@dataclass(frozen=True)
class Transformer:
    """Couplings with transformers over patches, at one scale, as in Jet (Kolesnikov et al. 2024).

    What a coupling keeps is, in turn: a checkerboard of the pixels of every patch, half of its channels, and a
    checkerboard of patches; each is followed by its opposite.

    Args:
        patch: Height and width of the squares that become tokens.
        couplings: How many.
        width: Of a token; a multiple of 4 and of both heads.
        blocks: Transformer blocks of a coupling.
        heads: Of the attention among tokens.
        text_heads: Heads of attention to the words, in each block; 0: the text is known as a whole only.
        mlp_ratio: Width of the hidden layer of a block's MLP, over `width`.
    """

    patch: PositiveInt = 4
    couplings: Annotated[int, Field(ge=2)] = 12
    width: Width = 96
    blocks: PositiveInt = 1
    heads: PositiveInt = 4
    text_heads: Annotated[int, Field(ge=0)] = 0
    mlp_ratio: Annotated[float, Field(gt=0)] = 2.0

    def __post_init__(self) -> None:
        _check_heads(self.width, heads=self.heads, text_heads=self.text_heads)

    def check(self, space: Space) -> None:
        """Raises SpaceError where `space` cannot be cut into patches, or leaves nothing to divide."""
        height, width, _ = space.shape
        if height % self.patch or width % self.patch:
            raise SpaceError(
                f"patches of {self.patch} do not divide latents of {height}x{width}: use another patch, or change the "
                f"size of the images to a multiple of {self.patch}"
            )
        if space.size < 2:
            raise SpaceError(f"a flow of couplings needs two numbers or more, but the latents are {space}")

    def build(self, space: Space, bound: float) -> Bijection:
        """Makes the flow, in the current dtype policy."""
        self.check(space)
        shape = (space.shape[0] // self.patch, space.shape[1] // self.patch, space.shape[2] * self.patch**2)
        masks = [squeezed_checkerboard(*shape, self.patch), halves(*shape), checkerboard(*shape)]
        masks = [mask for mask in masks if mask.min() < mask.max()]  # those that divide anything
        steps: list[Bijection] = [Squeeze(self.patch, name="squeeze")]
        for i in range(self.couplings):
            mask = masks[i // 2 % len(masks)]
            steps.append(ActNorm(name=f"actnorm{i}"))
            steps.append(_coupling(mask if i % 2 == 0 else 1.0 - mask, self._network, bound, i))
        return Chain([*steps, Unsqueeze(self.patch, name="unsqueeze")], name="flow")

    def _network(self, out_channels: int, name: str) -> keras.layers.Layer:
        return TransformerNetwork(
            out_channels, self.width, self.blocks, self.heads, self.text_heads, self.mlp_ratio, name=name
        )


def _coupling(mask: np.ndarray, network: NetworkOf, bound: float, index: int) -> AffineCoupling:
    return AffineCoupling(mask, network(2 * mask.shape[-1], "network"), bound, name=f"coupling{index}")


def _check_heads(width: int, **heads: int) -> None:
    for name, count in heads.items():
        if count and width % count:
            raise ValueError(f"a width of {width} is not divisible into {count} {name}: change width or {name}")
