"""Number of masked tokens in training and before each sampling step."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from keras import ops

from kgen import part

Tensor = Any


class Schedule(Protocol):
    """A `tokens.schedule`: a function that gives the share of masked tokens. Every plugin can add one.

    The share is 1 at r = 0 and decreases to 0 at r = 1 (Chang et al. 2022, MaskGIT, section 3.3).

    Args of a call:
        r: Progress of the sampling, in [0, 1].
        library: The module to compute with: `numpy` or `keras.ops`.
    """

    def __call__(self, r: Any, library: Any) -> Any: ...


def cosine(r: Any, library: Any) -> Any:
    """cos(pi r / 2): few tokens are filled in at first, and more at each later step."""
    return library.cos(r * (math.pi / 2))


def linear(r: Any, library: Any) -> Any:
    """1 - r: each step fills in the same number of tokens."""
    return 1.0 - r


def arccos(r: Any, library: Any) -> Any:
    """arccos(r) / (pi / 2)."""
    return library.arccos(r) / (math.pi / 2)


def masked_counts(schedule: Schedule | str, tokens: int, steps: int, last_token_alone: bool = False) -> np.ndarray:
    """Returns the number of masked tokens before each step: (steps,) int32. It begins at `tokens` and decreases.

    The number before step t = 0 .. T-1 of T is floor(tokens * share(t / T)) (Chang et al. 2022, section 3.2). It is
    adjusted so that each step fills in at least one token and leaves at least one for each later step.

    Args:
        last_token_alone: Whether to use share(t / (T-1)) instead of share(t / T). The last of several steps then fills
            in a single token, and all others are filled in one step earlier.

    Raises:
        ValueError: there are more steps than tokens.
    """
    if steps > tokens:
        raise ValueError(f"steps: {steps} are more than the {tokens} tokens to fill in")
    number = np.arange(steps)
    counts = np.floor(_shares(schedule, steps, last_token_alone) * tokens + 1e-4)
    return np.clip(counts, steps - number, tokens - number).astype(np.int32)


def row_counts(schedule: Schedule | str, wanted: Tensor, steps: int, last_token_alone: bool = False) -> Tensor:
    """Like `masked_counts`, but each row has its own number of tokens: (B,) int32 -> (steps, B, 1) int32.

    A row with 0 tokens has no masked tokens. A row with fewer tokens than steps fills in one token per step, and
    samples the last one again in the remaining steps.
    """
    shares = _shares(schedule, steps, last_token_alone).astype(np.float32)
    each = ops.convert_to_tensor(shares[:, None]) * ops.cast(wanted, "float32")  # (steps, B)
    number = ops.convert_to_tensor(np.arange(steps, dtype=np.int32)[:, None])
    most = ops.maximum(wanted - number, ops.minimum(wanted, 1))
    least = ops.minimum(steps - number, most)
    return ops.clip(ops.cast(ops.floor(each + 1e-4), "int32"), least, most)[..., None]


def _shares(schedule: Schedule | str, steps: int, last_token_alone: bool) -> np.ndarray:
    """The share of masked tokens before each step: (steps,), beginning at 1."""
    last = steps - 1 if last_token_alone else steps
    return np.asarray(part("tokens.schedule", schedule)(np.arange(steps) / max(last, 1), np))


def ranks(values: Tensor) -> Tensor:
    """Returns the rank of each number (B, N) within its row, 0 for the smallest: int32 (B, N)."""
    return ops.cast(ops.argsort(ops.argsort(values, axis=1), axis=1), "int32")
