"""The Inception network of FID: the graph of December 2015, which is not `keras.applications.InceptionV3`.

It is Inception-v3 (Szegedy et al. 2016, table 1) with the weights of TensorFlow's `inception-2015-12-05.tgz`, from
which Heusel et al. 2017 compute FID. It differs from later releases: its average pools count no padding, the last
block (Mixed_7c) has a max pool, and there are 1008 logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from kgen_plugin_metrics.features.resize import SIZE

Tensor = Any
Convolutions = dict[tuple[str, str], layers.Conv2D]
"""The convolutions by their names: that in state dicts, and that in the TorchScript file."""


@dataclass(frozen=True)
class Conv:
    """A convolution with its batch normalization folded in, and a ReLU.

    Args:
        name: Its name in a state dict, inside of its block.
        scripted: Its name in the TorchScript file, inside of its block.
        filters: Number of output channels.
        size: Height and width of the kernel, or both.
        strides: Strides.
        padding: "same" for an output of the input's size, with zeros around the input; "valid" for no padding.
    """

    name: str
    scripted: str
    filters: int
    size: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', filters), and adds the layer to `found`."""
        path = f"{scope}{self.name}"
        found[path, f"{scripted_scope}{self.scripted}"] = layer = layers.Conv2D(
            self.filters,
            self.size,
            strides=self.strides,
            padding=self.padding,
            activation="relu",
            kernel_initializer="zeros",  # the file's weights replace them
            data_format="channels_last",
            dtype="float32",
            name=path.replace(".", "_"),
        )
        return layer(x)


@dataclass(frozen=True)
class Pool:
    """The maximum or the average of 3 x 3 windows; padding never counts.

    With strides of 1, the output has the input's size. With strides of 2, only whole windows count.
    """

    layer: type[layers.Layer]
    strides: int = 1

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', C)."""
        padding = "same" if self.strides == 1 else "valid"
        return self.layer(3, self.strides, padding=padding, data_format="channels_last", dtype="float32")(x)


@dataclass(frozen=True)
class Fork:
    """Several branches, whose outputs are concatenated.

    Args:
        branches: The steps of each branch.
        name, scripted: Names of the block in a state dict and in the TorchScript file; "" for branches of a branch.
    """

    branches: tuple[tuple[Conv | Pool | Fork, ...], ...]
    name: str = ""
    scripted: str = ""

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', channels of all branches)."""
        scope = f"{scope}{self.name}." if self.name else scope
        scripted_scope = f"{scripted_scope}{self.scripted}." if self.scripted else scripted_scope
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = step.build(y, found, scope, scripted_scope)
            outputs.append(y)
        return layers.Concatenate(axis=-1, dtype="float32")(outputs)


MAX, AVERAGE = Pool(layers.MaxPooling2D), Pool(layers.AveragePooling2D)
SHRINK = Pool(layers.MaxPooling2D, strides=2)


def _block_5(name: str, scripted: str, pooled: int) -> Fork:
    """35 x 35 (Szegedy et al. 2016, figure 5, with a 5 x 5 convolution), `pooled` channels after the pool."""
    one = (Conv("branch1x1", "conv", 64),)
    five = (Conv("branch5x5_1", "tower.conv", 48), Conv("branch5x5_2", "tower.conv_1", 64, 5))
    three = (
        Conv("branch3x3dbl_1", "tower_1.conv", 64),
        Conv("branch3x3dbl_2", "tower_1.conv_1", 96, 3),
        Conv("branch3x3dbl_3", "tower_1.conv_2", 96, 3),
    )
    return Fork((one, five, three, (AVERAGE, Conv("branch_pool", "tower_2.conv", pooled))), name, scripted)


def _block_6a() -> Fork:
    """35 x 35 to 17 x 17 (figure 10)."""
    three = (Conv("branch3x3", "conv", 384, 3, 2, "valid"),)
    double = (
        Conv("branch3x3dbl_1", "tower.conv", 64),
        Conv("branch3x3dbl_2", "tower.conv_1", 96, 3),
        Conv("branch3x3dbl_3", "tower.conv_2", 96, 3, 2, "valid"),
    )
    return Fork((three, double, (SHRINK,)), "Mixed_6a", "mixed_3")


def _block_6(name: str, scripted: str, inner: int) -> Fork:
    """17 x 17 (figure 6, n = 7), with `inner` channels inside of the branches."""
    one = (Conv("branch1x1", "conv", 192),)
    seven = (
        Conv("branch7x7_1", "tower.conv", inner),
        Conv("branch7x7_2", "tower.conv_1", inner, (1, 7)),
        Conv("branch7x7_3", "tower.conv_2", 192, (7, 1)),
    )
    double = (
        Conv("branch7x7dbl_1", "tower_1.conv", inner),
        Conv("branch7x7dbl_2", "tower_1.conv_1", inner, (7, 1)),
        Conv("branch7x7dbl_3", "tower_1.conv_2", inner, (1, 7)),
        Conv("branch7x7dbl_4", "tower_1.conv_3", inner, (7, 1)),
        Conv("branch7x7dbl_5", "tower_1.conv_4", 192, (1, 7)),
    )
    return Fork((one, seven, double, (AVERAGE, Conv("branch_pool", "tower_2.conv", 192))), name, scripted)


def _block_7a() -> Fork:
    """17 x 17 to 8 x 8 (figure 10, with 7 x 7 convolutions)."""
    three = (Conv("branch3x3_1", "tower.conv", 192), Conv("branch3x3_2", "tower.conv_1", 320, 3, 2, "valid"))
    seven = (
        Conv("branch7x7x3_1", "tower_1.conv", 192),
        Conv("branch7x7x3_2", "tower_1.conv_1", 192, (1, 7)),
        Conv("branch7x7x3_3", "tower_1.conv_2", 192, (7, 1)),
        Conv("branch7x7x3_4", "tower_1.conv_3", 192, 3, 2, "valid"),
    )
    return Fork((three, seven, (SHRINK,)), "Mixed_7a", "mixed_8")


def _block_7(name: str, scripted: str, pool: Pool) -> Fork:
    """8 x 8 (figure 7)."""

    def both(name: str, scripted: str) -> Fork:
        wide, high = (f"{name}a", f"{scripted}", 384, (1, 3)), (f"{name}b", f"{scripted}_1", 384, (3, 1))
        return Fork(((Conv(*wide),), (Conv(*high),)))

    one = (Conv("branch1x1", "conv", 320),)
    three = (Conv("branch3x3_1", "tower_conv", 384), both("branch3x3_2", "tower_mixed_conv"))
    double = (
        Conv("branch3x3dbl_1", "tower_1_conv", 448),
        Conv("branch3x3dbl_2", "tower_1_conv_1", 384, 3),
        both("branch3x3dbl_3", "tower_1_mixed_conv"),
    )
    return Fork((one, three, double, (pool, Conv("branch_pool", "tower_2_conv", 192))), name, scripted)


STEPS = (
    Conv("Conv2d_1a_3x3", "conv", 32, 3, 2, "valid"),  # (B, 149, 149, 32)
    Conv("Conv2d_2a_3x3", "conv_1", 32, 3, 1, "valid"),  # (B, 147, 147, 32)
    Conv("Conv2d_2b_3x3", "conv_2", 64, 3),
    SHRINK,  # (B, 73, 73, 64)
    Conv("Conv2d_3b_1x1", "conv_3", 80),
    Conv("Conv2d_4a_3x3", "conv_4", 192, 3, 1, "valid"),  # (B, 71, 71, 192)
    SHRINK,  # (B, 35, 35, 192)
    _block_5("Mixed_5b", "mixed", 32),  # (B, 35, 35, 256)
    _block_5("Mixed_5c", "mixed_1", 64),  # (B, 35, 35, 288)
    _block_5("Mixed_5d", "mixed_2", 64),
    _block_6a(),  # (B, 17, 17, 768)
    _block_6("Mixed_6b", "mixed_4", 128),
    _block_6("Mixed_6c", "mixed_5", 160),
    _block_6("Mixed_6d", "mixed_6", 160),
    _block_6("Mixed_6e", "mixed_7", 192),
    _block_7a(),  # (B, 8, 8, 1280)
    _block_7("Mixed_7b", "mixed_9", AVERAGE),  # (B, 8, 8, 2048)
    _block_7("Mixed_7c", "mixed_10", MAX),
)
"""The network up to the mean over positions. Names of layers are those of torchvision and of the TorchScript file."""


def build() -> tuple[keras.Model, Convolutions, layers.Dense]:
    """Builds the network without its weights.

    Returns:
        The network, which maps (B, 299, 299, 3) to features (B, 2048) and logits (B, 1008) without their bias; its
        convolutions by their names; and its last layer.
    """
    found: Convolutions = {}
    x = image = keras.Input((SIZE, SIZE, 3), dtype="float32")
    for step in STEPS:
        x = step.build(x, found)
    features = layers.GlobalAveragePooling2D(data_format="channels_last", dtype="float32")(x)  # (B, 2048)
    last = layers.Dense(1008, use_bias=False, kernel_initializer="zeros", dtype="float32", name="fc")
    return keras.Model(image, [features, last(features)]), found, last
