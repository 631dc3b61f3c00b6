"""How many tokens are masked: in training, and at each step of drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from keras import ops

Tensor = Any

Schedule = Literal["cosine", "linear", "arccos"]

SCHEDULES: Mapping[Schedule, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "cosine": lambda r, library: library.cos(r * (math.pi / 2)),
        "linear": lambda r, library: 1.0 - r,
        "arccos": lambda r, library: library.arccos(r) / (math.pi / 2),
    }
)
"""The share that is masked, from 1 at r = 0 to 0 at r = 1 (Chang et al. 2022, MaskGIT, section 3.3).

Given r, and the library to compute with: `numpy`, or `keras.ops`."""


def masked_counts(schedule: Schedule, tokens: int, steps: int) -> np.ndarray:
    """How many of `tokens` are masked before each step: (steps,) int32, from all of them; at least one each time.

    The steps are evenly spaced from r = 0 to r = 1, so that the last of several fills in what has least certainty.

    Raises:
        ValueError: there are more steps than tokens.
    """
    if steps > tokens:
        raise ValueError(f"steps: {steps} are more than the {tokens} tokens to be filled in")
    shares = SCHEDULES[schedule](np.linspace(0.0, 1.0, steps), np)  # from 1
    return np.maximum(np.floor(shares * tokens + 1e-4), 1).astype(np.int32)


def row_counts(schedule: Schedule, wanted: Tensor, steps: int) -> Tensor:
    """As `masked_counts`, of as many tokens as each row wants: (B,) int32 -> (steps, B, 1) int32.

    A row that wants none has none; one that wants fewer than there are steps has the same number in several.
    """
    shares = SCHEDULES[schedule](np.linspace(0.0, 1.0, steps), np).astype(np.float32)  # (steps,), from 1
    each = ops.convert_to_tensor(shares[:, None]) * ops.cast(wanted, "float32")  # (steps, B)
    counts = ops.cast(ops.floor(each + 1e-4), "int32")
    return ops.maximum(counts, ops.minimum(wanted, 1))[..., None]


def ranks(values: Tensor) -> Tensor:
    """Of each number (B, N) among its row's, from 0 for the least: int32 (B, N)."""
    return ops.cast(ops.argsort(ops.argsort(values, axis=1), axis=1), "int32")
