"""Finite scalar quantization (Mentzer et al. 2023): a few levels per dimension, without a learned codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field

Tensor = Any
EPSILON = 1e-3
"""Relative margin of the bound beyond the outermost levels, which makes them reachable."""


@dataclass(frozen=True, kw_only=True)
class FiniteScalar:
    """Bounds each dimension of a vector and rounds it to one of a few levels. A code is a combination of levels.

    Args:
        levels: Number of levels of each dimension. Their product is the vocabulary.
    """

    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 5, 5, 5)

    @property
    def dim(self) -> int:
        return len(self.levels)

    @property
    def vocabulary(self) -> int:
        return math.prod(self.levels)

    def build(self) -> FiniteScalarQuantizer:
        return FiniteScalarQuantizer(self.levels, dtype="float32", name="quantizer")


class FiniteScalarQuantizer(keras.layers.Layer):
    """The quantizer of Mentzer et al. 2023, section 3.1 and appendix A.1. `kgen_plugin_codecs.quantizers` has its call.

    The paper shifts an even number of levels so that z = 0 is in the middle of one of them. With two levels, z = 0
    would then be at the end of one, where the gradient is almost 0, and only z < -3.8 would reach the other. So two
    levels are not shifted, and z = 0 is between them.
    """

    def __init__(self, levels: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        counts = np.array(levels)
        self.levels = tuple(levels)
        self._half = (counts // 2).astype("float32")  # index of the level with value 0
        self._basis = np.concatenate([[1], np.cumprod(counts[:-1])]).astype("int32")
        self._reach = ((counts - 1) * (1 + EPSILON) / 2).astype("float32")
        self._offset = np.where(counts % 2 == 0, 0.5, 0.0).astype("float32")
        self._shift = np.where(counts == 2, 0.0, np.arctanh(self._offset / self._reach)).astype("float32")

    def build(self, z_shape: Any = None) -> None:
        """Does nothing, because there are no weights."""

    def call(self, z: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        bounded = ops.subtract(ops.multiply(ops.tanh(ops.add(z, self._shift)), self._reach), self._offset)
        rounded = bounded + ops.stop_gradient(ops.round(bounded) - bounded)
        digits = ops.cast(ops.round(ops.add(ops.stop_gradient(rounded), self._half)), "int32")
        codes = ops.cast(ops.sum(ops.multiply(digits, self._basis), axis=-1), "int32")
        return ops.divide(rounded, self._half), codes, ops.zeros_like(z[:, 0, 0, 0])

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, h, w) int32 -> (B, h, w, D) in [-1, 1]."""
        digits = ops.mod(ops.floor_divide(codes[..., None], self._basis), np.array(self.levels, "int32"))
        return ops.divide(ops.subtract(ops.cast(digits, "float32"), self._half), self._half)
