"""Image towers: an encoder has ``image: {kind: vit, patch: 4}``, and `build` makes the layer.

Any plugin can add one: ``registry.add("clip.image", "mine", "package.module:Mine", summary=...)``. The target is a
class with the attributes and methods of `ImageTower`, such as a frozen dataclass whose fields are its options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen.nn import GroupNorm, conv3x3, space_to_depth
from kgen_plugin_clip.transformer import EPSILON, blocks

Tensor = Any

Size = Annotated[int, Field(ge=4, le=2**12)]


def floats(images: Tensor) -> Tensor:
    """Converts images from uint8 to float32 in [-1, 1]."""
    return ops.cast(images, "float32") / 127.5 - 1.0


class ImageTower(Protocol):
    """The protocol of a `clip.image`: the options of a network, from which `build` makes the layer.

    Attributes:
        size: Height and width of the images.
    """

    @property
    def size(self) -> int: ...

    def build(self, policy: Any) -> keras.layers.Layer:
        """Makes a layer, in a dtype policy, that maps images (B, size, size, 3) in [-1, 1] to features (B, F).

        Its attribute `features` is F.
        """


@dataclass(frozen=True)
class VisionTransformer:
    """The vision transformer of CLIP (Dosovitskiy et al. 2021; Radford et al. 2021, section 2.4).

    A learned class token goes before the patches, and its output is the feature vector. The embeddings are normalized
    before the first block, too.

    Args:
        size: Height and width of the images in pixels.
        patch: Height and width of a patch, which must divide `size`.
        width: Dimension of the vectors.
        depth: Number of blocks.
        heads: Number of attention heads, which must divide `width`.
    """

    size: Size = 32
    patch: PositiveInt = 4
    width: PositiveInt = 128
    depth: PositiveInt = 4
    heads: PositiveInt = 4

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patch {self.patch} must divide size {self.size}")

    def build(self, policy: Any) -> VisionTransformerLayer:
        return VisionTransformerLayer(self, dtype=policy, name="image")


class VisionTransformerLayer(keras.layers.Layer):  # type: ignore[misc]
    """The layer of `VisionTransformer`.

    Args:
        options: The options.
        style: Other options of `Block`, and the epsilon of all normalizations.
    """

    def __init__(self, options: VisionTransformer, style: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        style = style or {}
        self.options = options
        self.features = options.width
        policy, width = self.dtype_policy, options.width
        normal = keras.initializers.RandomNormal(stddev=(options.patch**2 * 3) ** -0.5)
        self.cut = keras.layers.Dense(width, use_bias=False, kernel_initializer=normal, dtype=policy, name="cut")
        epsilon = style.get("epsilon", EPSILON)
        self.norm1 = keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name="norm1")
        self.blocks = blocks(width, options.depth, options.heads, False, policy, **style)
        self.norm2 = keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name="norm2")

    def build(self, input_shape: Any = None) -> None:
        width, count = self.options.width, (self.options.size // self.options.patch) ** 2
        normal = keras.initializers.RandomNormal(stddev=width**-0.5)
        self.first = self.add_weight(shape=(width,), initializer=normal, name="class")
        self.positions = self.add_weight(shape=(1 + count, width), initializer=normal, name="positions")
        self.cut.build((None, count, 3 * self.options.patch**2))
        for layer in (self.norm1, *self.blocks):
            layer.build((None, 1 + count, width))
        self.norm2.build((None, width))

    def call(self, images: Tensor) -> Tensor:
        """(B, S, S, 3) -> (B, D)."""
        patches = space_to_depth(images, self.options.patch)  # (B, S/p, S/p, p*p*3)
        x = self.cut(ops.reshape(patches, (-1, patches.shape[1] * patches.shape[2], patches.shape[3])))  # (B, N, D)
        first = ops.zeros_like(x[:, :1]) + ops.cast(self.first, x.dtype)  # (B, 1, D)
        x = ops.concatenate([first, x], axis=1) + ops.cast(self.positions, x.dtype)  # (B, 1 + N, D)
        x = self.norm1(x)
        for block in self.blocks:
            x = block(x)
        return self.norm2(x[:, 0])


@dataclass(frozen=True)
class Convolutional:
    """A small residual network (He et al. 2016), which learns from few images.

    The features are the normalized mean over all positions of the last stage.

    Args:
        size: Height and width of the images in pixels, which 2 to the number of stages must divide.
        width: Number of channels of the first stage.
        multipliers: Number of channels of each stage as a multiple of `width`. Each stage begins with a convolution
            that halves height and width.
        blocks: Number of residual blocks per stage.
    """

    size: Size = 32
    width: Annotated[int, Field(ge=4, multiple_of=2)] = 48
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4)
    blocks: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.size % 2 ** len(self.multipliers):
            raise ValueError(f"{len(self.multipliers)} stages need a size that {2 ** len(self.multipliers)} divides")

    def build(self, policy: Any) -> ConvolutionalLayer:
        return ConvolutionalLayer(self, dtype=policy, name="image")


class ConvolutionalLayer(keras.layers.Layer):  # type: ignore[misc]
    """The layer of `Convolutional`."""

    def __init__(self, options: Convolutional, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options
        self.features = options.width * options.multipliers[-1]
        policy = self.dtype_policy
        self.downs, self.residuals = [], []
        for stage, multiplier in enumerate(options.multipliers):
            channels = options.width * multiplier
            self.downs.append(
                keras.layers.Conv2D(channels, 3, strides=2, padding="same", dtype=policy, name=f"down_{stage}")
            )
            for number in range(options.blocks):
                self.residuals.append(Residual(channels, dtype=policy, name=f"block_{stage}_{number}"))
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="norm")

    def build(self, input_shape: Any = None) -> None:
        size, channels = self.options.size, 3
        for stage, down in enumerate(self.downs):
            down.build((None, size, size, channels))
            size, channels = size // 2, down.filters
            for block in self._of_stage(stage):
                block.build((None, size, size, channels))
        self.norm.build((None, channels))

    def _of_stage(self, stage: int) -> list[Residual]:
        return self.residuals[stage * self.options.blocks : (stage + 1) * self.options.blocks]

    def call(self, images: Tensor) -> Tensor:
        """(B, S, S, 3) -> (B, C)."""
        x = images
        for stage, down in enumerate(self.downs):
            x = down(x)
            for block in self._of_stage(stage):
                x = block(x)
        return self.norm(ops.mean(x, axis=(1, 2)))


class Residual(keras.layers.Layer):  # type: ignore[misc]
    """Two normalized 3x3 convolutions, added to their input (He et al. 2016)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm1, self.norm2 = (GroupNorm(dtype=policy, name=f"norm{i}") for i in (1, 2))
        self.conv1, self.conv2 = (conv3x3(channels, policy, f"conv{i}") for i in (1, 2))

    def build(self, x_shape: Any) -> None:
        for layer in (self.norm1, self.conv1, self.norm2, self.conv2):
            layer.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y = self.conv1(ops.silu(self.norm1(x)))
        return x + self.conv2(ops.silu(self.norm2(y)))
