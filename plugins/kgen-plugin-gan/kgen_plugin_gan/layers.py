"""Convolutions and matrix products, with optional spectral normalization."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any
Shape = tuple[int | None, ...]


class Convolution(keras.layers.Layer):
    """A convolution with "same" padding; with a 1x1 kernel, a matrix product on every pixel.

    Spectral normalization (Miyato et al. 2018, algorithm 1) divides the kernel, as a matrix (size^2 C, channels), by
    its largest singular value. Every training step runs one step of the power iteration for that value.

    Args:
        channels: Number of output channels.
        size: Height and width of the kernel.
        use_bias: Whether to add a bias.
        spectral_norm: Whether to normalize the kernel.
        kernel_initializer: Initializer of the kernel, as in Keras.
    """

    def __init__(
        self,
        channels: int,
        size: int = 3,
        *,
        use_bias: bool = True,
        spectral_norm: bool = False,
        kernel_initializer: str = "he_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.size = size
        self.use_bias = use_bias
        self.spectral_norm = spectral_norm
        self.kernel_initializer = kernel_initializer

    def build(self, x_shape: Shape) -> None:
        shape = (self.size, self.size, x_shape[-1], self.channels)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        if self.spectral_norm:
            self.direction = self.add_weight(
                name="direction",
                shape=(self.channels,),
                initializer="random_normal",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, H, W, channels)."""
        kernel = self._normalized(training) if self.spectral_norm else self.kernel
        y = ops.conv(x, ops.cast(kernel, x.dtype), padding="same")
        return y + self.bias if self.use_bias else y

    def _normalized(self, training: bool) -> Tensor:
        kernel = ops.cast(self.kernel, "float32")
        matrix = ops.reshape(kernel, (-1, self.channels))  # (N, channels)
        fixed = ops.stop_gradient(matrix)
        left = _unit(ops.matmul(fixed, ops.convert_to_tensor(self.direction)))  # (N,)
        right = ops.matmul(left, fixed)  # (channels,)
        if training and self.trainable:
            self.direction.assign(_unit(right))
        right = _unit(right)
        return kernel / (ops.sum(ops.matmul(left, matrix) * right) + 1e-12)


def _unit(vector: Tensor) -> Tensor:
    return vector / (ops.norm(vector) + 1e-12)
