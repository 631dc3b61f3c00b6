"""Random inputs of the shapes that spaces describe."""

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
