"""The options of the two kinds of flow: a configuration has ``coupling: {kind: transformer, patch: 4}``.

Each builds a bijection from images (B, H, W, C) to noise of the same shape. Any plugin can add one:
``registry.add("realnvp.coupling", "mine", "package.module:Mine", summary=...)``. The target is a class with the methods
of `Coupling`, such as a frozen dataclass whose fields are its options.
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
    """The protocol of a `realnvp.coupling`: the options of a flow, from which `build` makes it."""

    def check(self, space: Space) -> None:
        """Raises SpaceError if the flow cannot work in `space`."""

    def build(self, space: Space, bound: float) -> Bijection:
        """Makes the flow in the current dtype policy.

        Args:
            bound: Largest absolute logarithm of a scale.
        """


@dataclass(frozen=True)
class Convolutional:
    """Couplings with convolutional networks at several scales (Dinh et al. 2017; `mixing`: Kingma and Dhariwal 2018).

    Each scale squeezes 2x2 pixels into channels. Then it applies couplings with a checkerboard mask over these pixels,
    and couplings with a mask over half of the channels. After that, half of the channels are factored out as noise, and
    the next scale transforms the other half.

    Args:
        scales: Number of scales. Each halves height and width.
        couplings: Number of couplings of each of the two kinds per scale. A coupling keeps what the one before changed.
        width: Number of channels of each network, a multiple of 4.
        blocks: Number of residual blocks of each network.
        text_heads: Number of heads of attention to the words, in each network. With 0, networks use only the pooled
            text.
        mixing: Whether a learned matrix mixes the channels before each coupling over half of the channels.
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
        """Raises SpaceError if the size of `space` cannot be halved once per scale."""
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
        """Makes the flow in the current dtype policy."""
        self.check(space)
        return self._scale(0, space.shape, bound)

    def _scale(self, level: int, shape: tuple[int, ...], bound: float) -> Chain:
        """Returns a scale and all later scales as one bijection that keeps the shape."""
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

    The masks alternate between a checkerboard of the pixels in each patch, half of the channels, and a checkerboard of
    patches. Each mask is followed by its complement.

    Args:
        patch: Height and width of the square of pixels that becomes one token.
        couplings: Number of couplings.
        width: Dimension of a token, a multiple of 4, of `heads` and of `text_heads`.
        blocks: Number of transformer blocks per coupling.
        heads: Number of heads of the attention among tokens.
        text_heads: Number of heads of attention to the words, in each block. With 0, networks use only the pooled text.
        mlp_ratio: Width of the MLP's hidden layer as a multiple of `width`.
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
        """Raises SpaceError if patches do not divide `space`, or it has a single dimension, which no mask divides."""
        height, width, _ = space.shape
        if height % self.patch or width % self.patch:
            raise SpaceError(
                f"patches of {self.patch} do not divide latents of {height}x{width}: use another patch, or change the "
                f"size of the images to a multiple of {self.patch}"
            )
        if space.size < 2:
            raise SpaceError(f"a flow of couplings needs two dimensions or more, but the latents are {space}")

    def build(self, space: Space, bound: float) -> Bijection:
        """Makes the flow in the current dtype policy."""
        self.check(space)
        shape = (space.shape[0] // self.patch, space.shape[1] // self.patch, space.shape[2] * self.patch**2)
        masks = [squeezed_checkerboard(*shape, self.patch), halves(*shape), checkerboard(*shape)]
        masks = [mask for mask in masks if mask.min() < mask.max()]  # drop masks that are all 0 or all 1
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
