"""From logits to tokens: guidance, temperature, and what is too improbable to be drawn."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.options import is_static

Tensor = Any

IMPOSSIBLE = -1e9


def guide(logits: Tensor, null_logits: Tensor, weight: Any) -> Tensor:
    """Classifier-free guidance of logits (Chang et al. 2023, Muse, equation 1 as ``null + weight (logits - null)``)."""
    return null_logits + weight * (logits - null_logits)


def sample_tokens(
    logits: Tensor, uniform: Tensor, *, temperature: Any = 1.0, top_k: int | None = None, top_p: Any = 1.0
) -> Tensor:
    """Draws tokens by the inverse of the cumulative distribution: one uniform number makes one token.

    Args:
        logits: (..., V) float32.
        uniform: (...) in [0, 1).
        temperature: What the logits are divided by; positive.
        top_k: So many of the most probable tokens can be drawn; None: all.
        top_p: Of the most probable tokens, as many can be drawn as it takes to reach this probability together (nucleus
            sampling, Holtzman et al. 2020); in (0, 1].

    Returns:
        (...) int32.
    """
    probabilities = ops.softmax(filter_logits(logits / temperature, top_k, top_p), axis=-1)
    reached = ops.cumsum(probabilities, axis=-1)  # (..., V)
    wanted = uniform * reached[..., -1] * (1.0 - 1e-6)  # less than the last sum, though it is rounded
    return ops.sum(ops.cast(reached <= wanted[..., None], "int32"), axis=-1)


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: Any = 1.0) -> Tensor:
    """Makes tokens impossible that are too improbable: see `sample_tokens`. Those as probable as the last one stay."""
    vocabulary = logits.shape[-1]
    if top_k is not None and top_k < vocabulary:
        least = ops.top_k(logits, top_k)[0][..., -1:]
        logits = ops.where(logits >= least, logits, IMPOSSIBLE)
    if not is_static(top_p, 1.0):
        probabilities = ops.softmax(logits, axis=-1)
        falling = -ops.sort(-probabilities, axis=-1)
        needed = ops.cumsum(falling, axis=-1) - falling < top_p  # what is before it does not reach top_p
        least = ops.min(ops.where(needed, falling, 1.0), axis=-1, keepdims=True)
        logits = ops.where(probabilities >= least, logits, IMPOSSIBLE)
    return logits


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of tokens (..., ) under logits (..., V): (...) float32."""
    chosen = ops.take_along_axis(logits, ops.expand_dims(tokens, -1), axis=-1)[..., 0]
    return chosen - ops.logsumexp(logits, axis=-1)
