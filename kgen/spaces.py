"""Descriptions of images, latents and conditions, which the parts compare before any weight exists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kgen.errors import SpaceError

MAX_SIZE = 2**28
"""Largest number of elements in an example; as float32, these take 1 GiB."""


@dataclass(frozen=True)
class Space:
    """The space of images or latents, for one example (without the batch axis).

    Args:
        kind: "continuous" for real numbers (images, latents, vectors), or "tokens" for int32 indices.
        shape: Shape of one example: (height, width, channels) for a grid, (n,) for a vector or a sequence.
        vocabulary: Number of different tokens; only for "tokens".
        bounded: Whether all numbers are in [-1, 1], as in images. Otherwise they are unbounded and have about unit
            variance, as in latents.
    """

    kind: Literal["continuous", "tokens"]
    shape: tuple[int, ...]
    vocabulary: int | None = None
    bounded: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.kind not in ("continuous", "tokens"):
            raise ValueError(f"Space.kind must be 'continuous' or 'tokens', not {self.kind!r}")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"Space.shape must be positive numbers, not {self.shape}")
        if self.size > MAX_SIZE:
            raise SpaceError(f"{'x'.join(map(str, self.shape))} are more than {MAX_SIZE:,} numbers per example")
        if (self.kind == "tokens") != (self.vocabulary is not None):
            raise ValueError("Space.vocabulary is given for 'tokens', and only for them")

    @property
    def size(self) -> int:
        """Number of elements (numbers or tokens) of one example."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        dims = "x".join(map(str, self.shape))
        if self.kind == "tokens":
            return f"{dims} tokens of {self.vocabulary}"
        return f"{dims} continuous" if self.bounded else f"{dims} continuous without bounds"


@dataclass(frozen=True)
class ConditionSpace:
    """The shape of the condition that an encoder computes for one input.

    Args:
        length: Number L of positions of "sequence" (L, dim) and "mask" (L,).
        dim: Width D of "sequence".
        pooled_dim: Width of "pooled"; `dim` by default. (CLIP's text tower, for example, has two widths.)
    """

    length: int
    dim: int
    pooled_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pooled_dim", self.pooled_dim or self.dim)
        if min(self.length, self.dim, self.pooled_dim) < 1:
            raise ValueError(f"ConditionSpace takes positive numbers, not {self}")
