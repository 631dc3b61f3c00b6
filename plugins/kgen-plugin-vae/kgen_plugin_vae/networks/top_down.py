"""The decoder network, from the latents of the first level to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import Space
from kgen.nn import GroupNorm, Upsample, conv3x3, depth_to_space
from kgen_plugin_vae.latents import Latent
from kgen_plugin_vae.networks import Network
from kgen_plugin_vae.networks.blocks import Block, TextEmbedding
from kgen_plugin_vae.networks.levels import MapLevel, Prior, VectorLevel

Tensor = Any
Shape = tuple[int | None, ...]


class TopDown(keras.layers.Layer):
    """Samples latents level by level, each given the levels before, and decodes them (Sonderby et al. 2016, figure 1).

    The first level is a vector. Further levels are maps: at the last stage, at the one before it, and so on. Training
    and sampling use the same layers, but in training the latents come from the posteriors.

    Args:
        network: Options of the network, see `Network`.
        space: Space of the images.
        sizes: Number of latents of each level, from the second on per pixel.
        prior: Prior of the latents, see `VAE`.
        initial: (N,), parameters of the observation model before training.
        shared: Number of these parameters, the last ones, that are equal for all pixels of all images.
    """

    def __init__(
        self,
        network: Network,
        space: Space,
        sizes: Sequence[int],
        prior: Prior,
        initial: np.ndarray,
        shared: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the inner layers cast their inputs; the latents stay float32
        self.network = network
        self.space = space
        self.sizes = tuple(sizes)
        self.initial = initial.astype("float32")
        self.shared = shared
        policy, last = self.dtype_policy, network.stages - 1
        self.embedding = TextEmbedding(4 * network.width, dtype=policy, name="embedding")
        top = (*network.grid(space, last), network.channels(last))
        self.levels = [VectorLevel(self.sizes[0], prior, top, dtype=policy, name="level0")]
        for level, size in enumerate(self.sizes[1:], start=1):
            channels = network.channels(self.stage(level))
            self.levels.append(MapLevel(size, prior, channels, dtype=policy, name=f"level{level}"))
        self.blocks = [
            [
                Block(network.channels(stage), network.heads(stage), dtype=policy, name=f"stage{stage}_block{i}")
                for i in range(network.blocks)
            ]
            for stage in range(last + 1)
        ]
        self.upsample = [
            Upsample(network.channels(stage), dtype=policy, name=f"upsample{stage}") for stage in range(last)
        ]
        self.norm_out = GroupNorm(dtype=policy, name="norm_out")
        own = np.tile(self.initial[: len(initial) - shared], network.patch**2)
        start = {"kernel_initializer": "zeros", "bias_initializer": keras.initializers.Constant(own)}
        self.conv_out = conv3x3(len(own), policy, "conv_out", **start)

    def stage(self, level: int) -> int:
        """Returns the stage at which the latents of a level are used."""
        return self.network.stages - max(1, level)

    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of the latents of one image, by level."""
        maps = [(*self.network.grid(self.space, self.stage(i)), size) for i, size in enumerate(self.sizes)]
        return [(self.sizes[0],), *maps[1:]]

    def build(self, noise_shape: Any, condition_shape: Mapping[str, Shape]) -> None:
        network, others = self.network, ((None, 4 * self.network.width), condition_shape["sequence"])
        self.embedding.build(condition_shape["pooled"])
        self.levels[0].build((None, 4 * network.width))
        for level, layer in enumerate(self.levels[1:], start=1):
            layer.build(self._pixels(self.stage(level)))
        for stage, blocks in enumerate(self.blocks):
            for block in blocks:
                block.build(self._pixels(stage), *others)
        for stage, layer in enumerate(self.upsample):
            layer.build(self._pixels(stage + 1))
        self.norm_out.build(self._pixels(0))
        self.conv_out.build(self._pixels(0))
        if self.shared:
            initial = keras.initializers.Constant(self.initial[-self.shared :])
            self.common = self.add_weight(name="common", shape=(self.shared,), initializer=initial, autocast=False)

    def _pixels(self, stage: int) -> Shape:
        return (None, *self.network.grid(self.space, stage), self.network.channels(stage))

    def call(
        self, noise: Sequence[Tensor], condition: Mapping[str, Tensor], features: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Latent]]:
        """Samples latents from the posteriors given the features, or from the priors if there are no features.

        Args:
            noise: (B, *latent shape) per level, N(0, I).
            condition: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P).
            features: Features by stage, from `BottomUp`.

        Returns:
            Parameters of the observation model (B, H, W, N) float32, and the latents by level, an empty list without
            features.
        """
        embedding = self.embedding(condition["pooled"])  # (B, E)
        others = (embedding, condition["sequence"], condition["mask"])
        latents = []
        x = embedding
        for stage in reversed(range(self.network.stages)):
            for level, layer in enumerate(self.levels):
                if self.stage(level) == stage:
                    x, latent = layer(x, noise[level], None if features is None else features[stage])  # (B, h, w, c)
                    latents += [] if latent is None else [latent]
            for block in self.blocks[stage]:
                x = block(x, *others)
            if stage:
                x = self.upsample[stage - 1](x)  # (B, 2h, 2w, c)
        parameters = depth_to_space(self.conv_out(ops.silu(self.norm_out(x))), self.network.patch)
        parameters = ops.cast(parameters, "float32")
        if self.shared:
            common = ops.broadcast_to(self.common, (*ops.shape(parameters)[:-1], self.shared))
            parameters = ops.concatenate([parameters, common], axis=-1)
        return parameters, latents
