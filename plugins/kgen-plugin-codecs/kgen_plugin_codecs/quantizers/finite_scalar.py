"""Finite scalar quantization (Mentzer et al. 2023): a few levels a number, and no codebook to learn."""

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
"""By how much the bound exceeds the outermost levels, which are reached so."""


@dataclass(frozen=True, kw_only=True)
class FiniteScalar:
    """Each number of a vector is bounded, and rounded to one of a few levels; a code is one of their combinations.

    Args:
        levels: Of each number; their product is the vocabulary.
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
    """Mentzer et al. 2023, section 3.1 and appendix A.1; see `kgen_plugin_codecs.quantizers` for its call.

    The paper shifts an even number of levels such that z = 0 is the middle of one of them. Of two levels it would be
    the outermost point of one, reached by -3.8 and without a gradient; so two levels are not shifted: z = 0 lies
    between them.
    """

    def __init__(self, levels: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        counts = np.array(levels)
        self.levels = tuple(levels)
        self._half = (counts // 2).astype("float32")  # as an integer, level 0 of L
        self._basis = np.concatenate([[1], np.cumprod(counts[:-1])]).astype("int32")
        self._reach = ((counts - 1) * (1 + EPSILON) / 2).astype("float32")
        self._offset = np.where(counts % 2 == 0, 0.5, 0.0).astype("float32")
        self._shift = np.where(counts == 2, 0.0, np.arctanh(self._offset / self._reach)).astype("float32")

    def build(self, z_shape: Any = None) -> None:
        """It has no weights."""

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
