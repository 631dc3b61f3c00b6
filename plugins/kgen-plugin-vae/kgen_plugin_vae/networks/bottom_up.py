"""The encoder network, from the image to the coarsest features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kgen import Space
from kgen.nn import conv3x3, space_to_depth
from kgen_plugin_vae.networks import Network
from kgen_plugin_vae.networks.blocks import Block, TextEmbedding

Tensor = Any
Shape = tuple[int | None, ...]


class BottomUp(keras.layers.Layer):
    """Computes the features of an image and its text from which the posteriors are made, once per image."""

    def __init__(self, network: Network, space: Space, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.space = space
        policy, stages = self.dtype_policy, range(network.stages)
        self.embedding = TextEmbedding(4 * network.width, dtype=policy, name="embedding")
        self.conv_in = conv3x3(network.channels(0), policy, "conv_in")
        self.blocks = [
            [
                Block(network.channels(stage), network.heads(stage), dtype=policy, name=f"stage{stage}_block{i}")
                for i in range(network.blocks)
            ]
            for stage in stages
        ]
        self.downsample = [
            conv3x3(network.channels(stage), policy, f"downsample{stage}", strides=2) for stage in stages[1:]
        ]

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        network, others = self.network, ((None, 4 * self.network.width), condition_shape["sequence"])
        self.embedding.build(condition_shape["pooled"])
        self.conv_in.build((None, *network.grid(self.space, 0), x_shape[-1] * network.patch**2))
        for stage, blocks in enumerate(self.blocks):
            pixels = (None, *network.grid(self.space, stage))
            if stage:
                above = (None, *network.grid(self.space, stage - 1), network.channels(stage - 1))
                self.downsample[stage - 1].build(above)
            for block in blocks:
                block.build((*pixels, network.channels(stage)), *others)

    def call(self, x: Tensor, condition: Mapping[str, Tensor]) -> list[Tensor]:
        """(B, H, W, C), condition -> features by stage, (B, *grid of the stage, channels of the stage) each."""
        others = (self.embedding(condition["pooled"]), condition["sequence"], condition["mask"])
        x = self.conv_in(space_to_depth(x, self.network.patch))
        features = []
        for stage, blocks in enumerate(self.blocks):
            if stage:
                x = self.downsample[stage - 1](x)  # (B, h, w, c), half the height and width
            for block in blocks:
                x = block(x, *others)
            features.append(x)
        return features
