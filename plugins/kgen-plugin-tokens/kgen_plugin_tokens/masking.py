"""How many tokens are masked: in training, and at each step of drawing."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from keras import ops

from kgen import part

Tensor = Any


class Schedule(Protocol):
    """What a `tokens.schedule` is: the share that is masked; every plugin can add one.

    It is 1 at r = 0, and falls to 0 at r = 1 (Chang et al. 2022, MaskGIT, section 3.3).

    Args of a call:
        r: How far the drawing has come, in [0, 1].
        library: To compute with: `numpy`, or `keras.ops`.
    """

    def __call__(self, r: Any, library: Any) -> Any: ...


def cosine(r: Any, library: Any) -> Any:
    """cos(pi r / 2): few tokens are filled in at first, and more at each later step."""
    return library.cos(r * (math.pi / 2))


def linear(r: Any, library: Any) -> Any:
    """1 - r: as many tokens at each step."""
    return 1.0 - r


def arccos(r: Any, library: Any) -> Any:
    """arccos(r) / (pi / 2)."""
    return library.arccos(r) / (math.pi / 2)


def masked_counts(schedule: Schedule | str, tokens: int, steps: int, last_token_alone: bool = False) -> np.ndarray:
    """How many of `tokens` are masked before each step: (steps,) int32, from all of them, fewer at each step.

    Before step t = 0 .. T-1 of T it is floor(tokens * share(t / T)) (Chang et al. 2022, section 3.2), where each step
    fills in at least one token and leaves at least one to each step that follows.

    Args:
        last_token_alone: Take share(t / (T-1)) in place of share(t / T): the last step of several then fills in a
            single token, and all the others have been filled in one step earlier.

    Raises:
        ValueError: there are more steps than tokens.
    """
    if steps > tokens:
        raise ValueError(f"steps: {steps} are more than the {tokens} tokens to be filled in")
    number = np.arange(steps)
    counts = np.floor(_shares(schedule, steps, last_token_alone) * tokens + 1e-4)
    return np.clip(counts, steps - number, tokens - number).astype(np.int32)


def row_counts(schedule: Schedule | str, wanted: Tensor, steps: int, last_token_alone: bool = False) -> Tensor:
    """As `masked_counts`, of as many tokens as each row wants: (B,) int32 -> (steps, B, 1) int32.

    A row that wants none has none. One that wants fewer than there are steps fills in one token per step, and draws
    the last one again in the steps that are left.
    """
    shares = _shares(schedule, steps, last_token_alone).astype(np.float32)
    each = ops.convert_to_tensor(shares[:, None]) * ops.cast(wanted, "float32")  # (steps, B)
    number = ops.convert_to_tensor(np.arange(steps, dtype=np.int32)[:, None])
    most = ops.maximum(wanted - number, ops.minimum(wanted, 1))
    least = ops.minimum(steps - number, most)
    return ops.clip(ops.cast(ops.floor(each + 1e-4), "int32"), least, most)[..., None]


def _shares(schedule: Schedule | str, steps: int, last_token_alone: bool) -> np.ndarray:
    """The share that is masked before each step, (steps,) from 1."""
    last = steps - 1 if last_token_alone else steps
    return np.asarray(part("tokens.schedule", schedule)(np.arange(steps) / max(last, 1), np))


def ranks(values: Tensor) -> Tensor:
    """Of each number (B, N) among its row's, from 0 for the least: int32 (B, N)."""
    return ops.cast(ops.argsort(ops.argsort(values, axis=1), axis=1), "int32")
