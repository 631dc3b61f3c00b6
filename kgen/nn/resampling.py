"""Doubling the size of images, and moving pixels into channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class Upsample(keras.layers.Layer):  # type: ignore[misc]
    """Repeats every pixel 2x2 and convolves with a 3x3 kernel, with 4/9 of the multiplications.

    A 3x3 kernel on repeated pixels reads each pixel several times, with the sum of the corresponding weights. This
    equals a transposed convolution of stride 2 with a 4x4 kernel: the 3x3 kernel convolved with a 2x2 box.

    Args:
        channels: Number of channels of the output.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(3, 3, x_shape[-1], self.channels), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 2H, 2W, channels)."""
        kernel = ops.pad(self.kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))  # (5, 5, C, channels)
        kernel = kernel[1:] + kernel[:-1]  # (4, 5, C, channels)
        kernel = kernel[:, 1:] + kernel[:, :-1]  # (4, 4, C, channels)
        kernel = ops.transpose(ops.flip(kernel, axis=(0, 1)), (0, 1, 3, 2))  # (4, 4, channels, C)
        return ops.conv_transpose(x, kernel, strides=2, padding="same") + self.bias


def space_to_depth(x: Tensor, patch: int) -> Tensor:
    """Turns squares of `patch` by `patch` pixels into single positions: (B, H, W, C) -> (B, H/p, W/p, p*p*C)."""
    if patch == 1:
        return x
    _, height, width, channels = x.shape
    y = ops.reshape(x, (-1, height // patch, patch, width // patch, patch, channels))
    return ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height // patch, width // patch, patch**2 * channels))


def depth_to_space(x: Tensor, patch: int) -> Tensor:
    """The inverse of `space_to_depth`: (B, H/p, W/p, p*p*C) -> (B, H, W, C)."""
    if patch == 1:
        return x
    _, rows, columns, depth = x.shape
    y = ops.reshape(x, (-1, rows, columns, patch, patch, depth // patch**2))
    return ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, rows * patch, columns * patch, depth // patch**2))
