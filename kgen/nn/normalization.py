"""Group normalization with a single multiply-add."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class GroupNorm(keras.layers.Layer):  # type: ignore[misc]
    """Group normalization (Wu and He 2018), optionally modulated by a condition (Dhariwal and Nichol 2021, eq. 2).

    Means and mean squares are computed per channel and combined per group, so that the large array is read twice and
    written once. Normalization, gain, bias and modulation are one multiply-add. All is computed in float32.

    Args:
        groups: Largest number of groups. The layer uses the largest number up to it that divides the channels into
            groups of `min_channels` or more.
        epsilon: Number that is added to the variance.
        min_channels: Smallest number of channels in a group.
    """

    def __init__(self, groups: int = 32, epsilon: float = 1e-5, min_channels: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.min_channels = min_channels
        self.epsilon = epsilon

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        channels = x_shape[-1]
        self.gain = self.add_weight(name="gain", shape=(channels,), initializer="ones", autocast=False)
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros", autocast=False)

    def call(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalizes.

        Args:
            x: (B, ..., C).
            scale, shift: (B, C) each, or None. The result is ``normalized * (1 + scale) + shift``.

        Returns:
            An array of the shape and type of x.
        """
        wide = ops.cast(x, "float32")
        space = tuple(range(1, len(x.shape) - 1))
        mean, mean_square = ops.mean(wide, space), ops.mean(ops.square(wide), space)  # (B, C)
        mean, mean_square = self._pool(mean), self._pool(mean_square)
        inverse = ops.rsqrt(ops.maximum(mean_square - ops.square(mean), 0.0) + self.epsilon)
        factor = inverse * self.gain
        offset = self.bias - mean * factor
        if scale is not None:
            factor, offset = factor * (1.0 + ops.cast(scale, "float32")), offset * (1.0 + ops.cast(scale, "float32"))
        if shift is not None:
            offset = offset + ops.cast(shift, "float32")
        broadcast = (-1, *(1 for _ in space), x.shape[-1])
        return ops.cast(wide * ops.reshape(factor, broadcast) + ops.reshape(offset, broadcast), x.dtype)

    def _pool(self, statistic: Tensor) -> Tensor:
        """Replaces the number of each channel, (B, C), by the mean over its group."""
        channels = statistic.shape[-1]
        groups = group_count(channels, self.groups, self.min_channels)
        grouped = ops.reshape(statistic, (-1, groups, channels // groups))  # (B, G, C/G)
        mean = ops.mean(grouped, axis=-1, keepdims=True)  # (B, G, 1)
        return ops.reshape(ops.broadcast_to(mean, ops.shape(grouped)), (-1, channels))  # (B, C)


def group_count(channels: int, groups: int, min_channels: int) -> int:
    """The largest number, up to `groups`, that divides `channels` into groups of `min_channels` or more."""
    most = min(groups, channels // min_channels)
    return next((count for count in range(most, 1, -1) if channels % count == 0), 1)
