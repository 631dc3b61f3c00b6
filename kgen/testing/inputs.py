"""Random inputs in given spaces, and the check that outputs are in their space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kgen.contracts.decoder import Decoder
from kgen.contracts.generator import Generator
from kgen.errors import SpaceError
from kgen.spaces import ConditionSpace, Space
from kgen.testing.execution import arrays


def random_latents(space: Space, count: int, seed: int) -> np.ndarray:
    """float32 (B, *shape), uniform in [-1, 1]; or int32 tokens (B, *shape)."""
    rng = np.random.default_rng([seed, 0])
    if space.kind == "tokens":
        return rng.integers(0, space.vocabulary, (count, *space.shape), dtype=np.int32)
    return rng.uniform(-1.0, 1.0, (count, *space.shape)).astype("float32")


def random_conditions(space: ConditionSpace, count: int, seed: int) -> dict[str, np.ndarray]:
    """Conditions of B texts of different lengths, float32; the first has the full length."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.maximum(1, space.length - np.arange(count) % space.length)  # (B,)
    return {
        "sequence": rng.standard_normal((count, space.length, space.dim)).astype("float32"),  # (B, L, D)
        "mask": (np.arange(space.length) < lengths[:, None]).astype("float32"),  # (B, L)
        "pooled": rng.standard_normal((count, space.pooled_dim)).astype("float32"),  # (B, P)
    }


def training_latents(
    space: Space, condition_space: ConditionSpace, count: int, seed: int = 0
) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Two batches for `Generator.initialize`: B latents with their conditions each."""
    seeds = (2 * seed, 2 * seed + 1)
    return [(random_latents(space, count, i), random_conditions(condition_space, count, i)) for i in seeds]


def louder(condition: dict[str, Any], factor: float = 10.0) -> dict[str, Any]:
    """Scales a condition by a factor, except the mask."""
    return {name: value if name == "mask" else factor * value for name, value in condition.items()}


def constant_latents(space: Space, count: int, level: float) -> np.ndarray:
    """Latents like those of `random_latents`, all of one value: `level` in [-1, 1], or the corresponding token."""
    if space.vocabulary is not None:
        level = round((level + 1.0) / 2.0 * (space.vocabulary - 1))
    return np.full((count, *space.shape), level, "int32" if space.kind == "tokens" else "float32")


class Images:
    """Two batches of random images, uint8 (B, H, W, C), which can be iterated several times."""

    def __init__(self, space: Space) -> None:
        rng = np.random.default_rng(5)
        self.batches = [rng.integers(0, 256, (count, *space.shape), dtype=np.uint8) for count in (16, 8)]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (batch.copy() for batch in self.batches)


def taller(component: Generator | Decoder, space: Space) -> Space | None:
    """The space of grids of twice the height, if the component accepts it; None for vectors and sequences."""
    if len(space.shape) != 3:
        return None
    height, width, channels = space.shape
    larger = replace(space, shape=(2 * height, width, channels))
    try:
        component.check_space(larger)
    except SpaceError:
        return None
    return larger


def check_in_space(value: Any, space: Space, count: int, what: str, narrow: bool = False) -> None:
    """Checks the shape, type and range of a batch of tensors.

    Args:
        value: The batch.
        space: The space of its examples.
        count: Number of examples.
        what: The origin of the batch, for messages.
        narrow: Whether numbers may have less than 32 bits, as in mixed precision.
    """
    shape, dtype = tuple(value.shape), keras.backend.standardize_dtype(value.dtype)
    assert shape == (count, *space.shape), f"{what} must make {(count, *space.shape)}, not {shape}: {space}"
    allowed = ("int32",) if space.kind == "tokens" else ("float32", *(("bfloat16", "float16") if narrow else ()))
    assert dtype in allowed, f"{what} must make {allowed[0]}, not {dtype}"
    found = arrays(value)
    if space.kind == "tokens":
        assert space.vocabulary is not None and found.min() >= 0 and found.max() < space.vocabulary, (
            f"{what} must make tokens 0..{space.vocabulary}, but made {found.min()}..{found.max()}"
        )
    else:
        assert np.isfinite(found).all(), f"{what} is not finite"
