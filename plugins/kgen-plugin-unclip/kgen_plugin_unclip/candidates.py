"""Several embeddings for each text, of which the one that is nearest to the text is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras import ops

from kgen import NoiseSpec
from kgen_plugin_unclip.vectors import to_length

Tensor = Any
Condition = dict[str, Tensor]


def candidate_noise(specs: Mapping[str, NoiseSpec], candidates: int) -> dict[str, NoiseSpec]:
    """The random numbers of all candidates, given those of one: "start" becomes "start0", "start1" ..."""
    return {f"{name}{i}": spec for i in range(candidates) for name, spec in specs.items()}


def best_candidate(
    generate: Callable[[Condition, Condition, dict[str, Tensor]], Tensor],
    condition: Condition,
    null_condition: Condition,
    noise: Mapping[str, Tensor],
    names: Iterable[str],
    candidates: int,
) -> Tensor:
    """Generates the candidates of each text in one batch, and selects the best of each text.

    Args:
        generate: Maps conditions, null conditions and noise of K * B rows to vectors (K * B, D).
        condition, null_condition: Those of the B texts. "pooled" of `condition` is the embedding of the text.
        noise: Arrays (B, ...) by the names of `candidate_noise`.
        names: The names of the noise of one candidate.
        candidates: Number K of candidates.

    Returns:
        (B, D) float32, of the length sqrt(D).
    """
    own = {name: ops.concatenate([noise[f"{name}{i}"] for i in range(candidates)]) for name in names}
    made = to_length(generate(_tiled(condition, candidates), _tiled(null_condition, candidates), own))  # (K * B, D)
    return nearest_to_text(ops.reshape(made, (candidates, -1, condition["pooled"].shape[-1])), condition["pooled"])


def nearest_to_text(candidates: Tensor, text: Tensor) -> Tensor:
    """Selects, for each text, the embedding whose dot product with that of the text is the largest.

    Args:
        candidates: (K, B, D), K embeddings of the same length for each text.
        text: (B, D), the embeddings of the texts.

    Returns:
        (B, D).
    """
    products = ops.sum(candidates * ops.cast(text, candidates.dtype)[None], axis=-1)  # (K, B)
    best = ops.broadcast_to(ops.argmax(products, axis=0)[None, :, None], ops.shape(candidates[:1]))  # (1, B, D)
    return ops.take_along_axis(candidates, best, axis=0)[0]


def _tiled(condition: Condition, count: int) -> Condition:
    """Repeats a whole batch: arrays (B, ...) -> (count * B, ...)."""
    return {name: ops.concatenate([value] * count) for name, value in condition.items()}
