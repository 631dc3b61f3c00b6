"""diffusers' conditional U-Net, the network of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
from keras import ops

from kgen import SpaceError
from kgen.nn import conv3x3
from kgen_plugin_diffusers.layers import Embedding, Shape, Tensor, group_norm, waves
from kgen_plugin_diffusers.unet.architecture import SIZES, Architecture
from kgen_plugin_diffusers.unet.layers import Blocks


class UNetNetwork(keras.layers.Layer):
    """The layers of `UNet2DConditionModel`.

    Args:
        model: The configuration.
        factor: Height and width of an image over those of its latent, for SDXL's embedding of the size.
    """

    def __init__(self, model: Architecture, factor: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # inner layers cast their inputs, but not the time
        policy, stages = self.dtype_policy, model.stages
        self.model, self.factor, last = model, factor, len(stages) - 1
        self.width = 4 * stages[0].channels
        self.conv_in = conv3x3(stages[0].channels, policy, "conv_in")
        self.time_embedding = Embedding(self.width, dtype=policy, name="time_embedding")
        self.add_embedding = Embedding(self.width, dtype=policy, name="add_embedding") if model.added else None
        self.down_blocks = [
            Blocks(model, stage, "down", number == last, dtype=policy, name=f"down{number}")
            for number, stage in enumerate(stages)
        ]
        self.mid_block = Blocks(model, stages[-1], "middle", True, dtype=policy, name="middle")
        self.up_blocks = [
            Blocks(model, stage, "up", number == last, dtype=policy, name=f"up{number}")
            for number, stage in enumerate(reversed(stages))
        ]
        self.conv_norm_out = group_norm(model.groups, policy, "conv_norm_out", model.epsilon)
        self.conv_out = conv3x3(model.out_channels, policy, "conv_out")

    def check(self, channels: int, text: int, pooled: int) -> None:
        """Raises SpaceError if the latents, or the conditions, have other dimensions than those of the model."""
        model = self.model
        for what, here, there, advice in (
            ("latents with {} channels", model.in_channels, channels, "choose the decoder of the same pipeline"),
            ("conditions of dimension {}", model.text, text, "choose the encoder that the model was trained with"),
        ):
            if here != there:
                raise SpaceError(f"this U-Net reads {what.format(here)}, not {there}: {advice}")
        if model.out_channels != channels:
            raise SpaceError(f"this U-Net makes {model.out_channels} channels, but the latents have {channels}")
        if model.added is not None and pooled < model.added.pooled:
            raise SpaceError(
                f"this U-Net reads the last {model.added.pooled} numbers of the pooled text, but there are {pooled}: "
                "choose the encoders that the model was trained with, and join them in width"
            )

    def build(self, x_shape: Shape, text_shape: Shape) -> None:
        channels, embedding = self.model.stages[0].channels, (None, self.width)
        text = (None, None, text_shape[-1])
        skips = [channels]
        self.conv_in.build((None, None, None, x_shape[-1]))
        self.time_embedding.build((None, channels))
        if self.add_embedding is not None and self.model.added is not None:
            self.add_embedding.build((None, SIZES * self.model.added.features + self.model.added.pooled))
        for stage, block in zip(self.model.stages, self.down_blocks, strict=True):
            block.build([channels, *[stage.channels] * (stage.blocks - 1)], embedding, text)
            channels = stage.channels
            skips += [channels] * (stage.blocks + len(block.downsamplers))
        self.mid_block.build([channels] * 2, embedding, text)
        for stage, block in zip(reversed(self.model.stages), self.up_blocks, strict=True):
            inputs = [channels, *[stage.channels] * stage.blocks]
            block.build([number + skips.pop() for number in inputs], embedding, text)
            channels = stage.channels
        self.conv_norm_out.build((None, None, None, channels))
        self.conv_out.build((None, None, None, channels))

    def call(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Computes the model.

        Args:
            x: (B, H, W, C).
            time: (B,), the number of the step, 0 to 999.
            condition: "sequence" (B, L, D), to which the network attends where "mask" (B, L) is 1, and "pooled" (B, P),
                of which SDXL reads the last numbers.

        Returns:
            (B, H, W, out_channels) float32.
        """
        others = (self._embedding(x, time, condition["pooled"]), condition["sequence"], condition["mask"])
        x = self.conv_in(x)  # (B, H, W, C)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(x, *others)
            skips += made
        x, _ = self.mid_block(x, *others)
        for block in self.up_blocks:
            count = len(block.resnets)
            taken, skips = skips[: -count - 1 : -1], skips[:-count]
            x, _ = block(x, *others, skips=taken, size=tuple(skips[-1].shape[1:3]) if skips else None)
        return ops.cast(self.conv_out(ops.silu(self.conv_norm_out(x))), "float32")

    def _embedding(self, x: Tensor, time: Tensor, pooled: Tensor) -> Tensor:
        """silu of the embedding of the time, and of SDXL's sizes and pooled text: (B, E)."""
        model = self.model
        embed = partial(waves, shift=model.shift, cosines_first=model.cosines_first)
        embedding = self.time_embedding(embed(time, model.stages[0].channels))  # (B, E)
        if self.add_embedding is not None and model.added is not None:
            height, width = (float(side * self.factor) for side in x.shape[1:3])
            sizes = ops.convert_to_tensor([height, width, 0.0, 0.0, height, width])
            features = ops.reshape(embed(sizes, model.added.features), (1, -1))  # (1, 6F)
            own = ops.cast(pooled[:, -model.added.pooled :], "float32")  # (B, P)
            features = ops.broadcast_to(features, (ops.shape(own)[0], features.shape[-1]))
            embedding = embedding + self.add_embedding(ops.concatenate([own, features], axis=-1))
        return ops.silu(embedding)
