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
    return _counts(schedule, np.array(tokens), steps)


def counts_up_to(schedule: Schedule, tokens: int, steps: int) -> np.ndarray:
    """`masked_counts` for each number of tokens from 0 to `tokens`: (tokens + 1, steps) int32.

    To be looked up where the number is known only when a picture is drawn. A few tokens may have fewer than the steps:
    the last of them is then drawn more than once.
    """
    return _counts(schedule, np.arange(tokens + 1)[:, None], steps)


def _counts(schedule: Schedule, most: np.ndarray, steps: int) -> np.ndarray:
    shares = SCHEDULES[schedule](np.linspace(0.0, 1.0, steps), np)  # from 1
    return np.clip(np.floor(shares * most + 1e-4), np.minimum(most, 1), None).astype(np.int32)


def ranks(values: Tensor) -> Tensor:
    """Of each number (B, N) among its row's, from 0 for the least: int32 (B, N)."""
    return ops.cast(ops.argsort(ops.argsort(values, axis=1), axis=1), "int32")
