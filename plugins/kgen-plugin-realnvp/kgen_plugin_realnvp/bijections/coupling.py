"""Affine couplings: one part of x determines the scale and shift of the other part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


class AffineCoupling(Bijection):
    """``y = b x + (1 - b) (x exp(s(b x)) + t(b x))`` with a mask b (Dinh et al. 2017, equation 9).

    s is ``bound * tanh(raw / bound)``, which limits the scale of a single coupling in both directions.

    Args:
        mask: (H, W, C), 1 for the elements that are kept and that the network reads, 0 for those that are changed.
        network: Layer, called as ``network(x, condition)``, that maps (B, H, W, C) to (B, H, W, 2 C): raw and t. Its
            output is 0 everywhere before training, so that the coupling starts as the identity.
        bound: Largest absolute logarithm of a scale.
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
        """Returns s and t, both 0 where the mask is 1. The network reads only that part, where x and y are equal."""
        kept, changed = ops.convert_to_tensor(self.mask), ops.convert_to_tensor(1.0 - self.mask)
        output = ops.cast(self.network(x * kept, condition), "float32")  # (B, H, W, 2C)
        raw, shift = ops.split(output, 2, axis=-1)  # (B, H, W, C) each
        return changed * self.bound * ops.tanh(raw / self.bound), changed * shift
