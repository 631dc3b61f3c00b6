"""A learned invertible matrix that mixes the channels of each pixel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


class ChannelMixing(Bijection):
    """Glow's invertible 1x1 convolution ``y = x W`` with ``W = R L U`` (Kingma and Dhariwal 2018, section 3.2).

    L is lower triangular with ones on its diagonal, and U is upper triangular with ``exp(log_diagonal)`` on its
    diagonal, so the log-determinant is H W times the sum of `log_diagonal`. R is a fixed random rotation, and W starts
    as R. (Glow fixes the permutation and the signs of the rotation's LU decomposition instead.)
    """

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        channels = x_shape[-1]
        square = (channels, channels)
        self.rotation = self.add_weight(name="rotation", shape=square, initializer="orthogonal", trainable=False)
        self.lower = self.add_weight(name="lower", shape=square, initializer="zeros")
        self.upper = self.add_weight(name="upper", shape=square, initializer="zeros")
        self.log_diagonal = self.add_weight(name="log_diagonal", shape=(channels,), initializer="zeros")
        self.below = np.tril(np.ones(square, np.float32), -1)

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        matrix = ops.matmul(self.rotation, ops.matmul(lower, upper))
        return ops.matmul(x, matrix), x.shape[1] * x.shape[2] * ops.sum(self.log_diagonal)

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        lower, upper = self._triangles()
        matrix = ops.solve_triangular(lower, ops.transpose(self.rotation), lower=True)  # L^-1 R^T
        return ops.matmul(y, ops.solve_triangular(upper, matrix))  # U^-1 L^-1 R^T

    def _triangles(self) -> tuple[Tensor, Tensor]:
        below = ops.convert_to_tensor(self.below)
        lower = self.lower * below + ops.eye(below.shape[0])
        upper = self.upper * ops.transpose(below) + ops.diag(ops.exp(self.log_diagonal))
        return lower, upper
