"""An encoder for models without text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from kgen import ConditionSpace, Encoder


class Unconditional(Encoder):
    """Returns the same condition for every caption: one position with a zero. It has no weights."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trainable = False

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, 1)

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        return {"nothing": np.zeros((len(inputs), 1), np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        zero = ops.zeros_like(tokens["nothing"])  # (B, 1)
        return {"sequence": zero[:, None], "mask": ops.ones_like(zero), "pooled": zero}
