"""Random inputs of the shapes that spaces describe, and the check that outputs have them."""

from __future__ import annotations

import numpy as np

from kgen.spaces import ConditionSpace, Space


def random_latents(space: Space, count: int, seed: int) -> np.ndarray:
    """float32 (B, *shape) in [-1, 1], of every scale from smooth to rough; or int32 tokens (B, *shape)."""
    rng = np.random.default_rng([seed, 0])
    if space.kind == "tokens":
        return rng.integers(0, space.vocabulary, (count, *space.shape), dtype=np.int32)
    return rng.uniform(-1.0, 1.0, (count, *space.shape)).astype("float32")


def random_conditions(space: ConditionSpace, count: int, seed: int) -> dict[str, np.ndarray]:
    """Conditions of B texts of different lengths, the first of full length; float32."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.maximum(1, space.length - np.arange(count) % space.length)  # (B,)
    return {
        "sequence": rng.standard_normal((count, space.length, space.dim)).astype("float32"),  # (B, L, D)
        "mask": (np.arange(space.length) < lengths[:, None]).astype("float32"),  # (B, L)
        "pooled": rng.standard_normal((count, space.pooled_dim)).astype("float32"),  # (B, P)
    }


def check_in_space(value: np.ndarray, space: Space, count: int, what: str) -> None:
    """Checks a batch's shape, type and range."""
    assert value.shape == (count, *space.shape), f"{what} must make {(count, *space.shape)}, not {value.shape}: {space}"
    if space.kind == "tokens":
        assert value.dtype == np.int32, f"{what} must make int32, not {value.dtype}"
        assert space.vocabulary is not None and value.min() >= 0 and value.max() < space.vocabulary, (
            f"{what} must make tokens 0..{space.vocabulary}, but made {value.min()}..{value.max()}"
        )
    else:
        assert value.dtype == np.float32, f"{what} must make float32, not {value.dtype}"
        assert np.isfinite(value).all(), f"{what} is not finite"
