"""One part of the numbers decides how the others are scaled and shifted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


class AffineCoupling(Bijection):
    """``y = b x + (1 - b) (x exp(s(b x)) + t(b x))`` with a mask b (Dinh et al. 2017, equation 9).

    s is ``bound * tanh(raw / bound)``, so that no single coupling can blow up a number, on the way or back.

    Args:
        mask: (H, W, C) of 1 for what is kept, and read by the network, and 0 for what is changed.
        network: A layer, called as ``network(x, condition)``, that makes (B, H, W, C) into (B, H, W, 2 C): raw and t.
            It is 0 everywhere before training, so that the coupling starts as the identity.
        bound: Of the logarithm of a scale.
    """

    def __init__(self, mask: np.ndarray, network: keras.layers.Layer, bound: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask = np.asarray(mask, np.float32)
        self.network = network
        self.bound = bound

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape] | None = None) -> None:
        if tuple(x_shape[1:]) != self.mask.shape:
            raise ValueError(f"a mask of {self.mask.shape} does not fit arrays of {tuple(x_shape[1:])}")
        self.network.build(x_shape, condition_shape)

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._affine(x, condition)
        return x * ops.exp(log_scale) + shift, ops.sum(log_scale, axis=(1, 2, 3))

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        log_scale, shift = self._affine(y, condition)
        return (y - shift) * ops.exp(-log_scale)

    def _affine(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """s and t, both 0 where the mask is 1; x and y are the same there, so either will do."""
        kept, changed = ops.convert_to_tensor(self.mask), ops.convert_to_tensor(1.0 - self.mask)
        output = ops.cast(self.network(x * kept, condition), "float32")  # (B, H, W, 2C)
        raw, shift = ops.split(output, 2, axis=-1)  # (B, H, W, C) each
        return changed * self.bound * ops.tanh(raw / self.bound), changed * shift
