"""Samples tokens from logits, with guidance, temperature, top-k and top-p."""

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
    """Samples tokens by the inverse of the cumulative distribution: one uniform number gives one token.

    Args:
        logits: (..., V) float32.
        uniform: (...) uniform numbers in [0, 1).
        temperature: Divisor of the logits; positive.
        top_k: Number of the most probable tokens that can be sampled; None: all tokens.
        top_p: Only the smallest set of most probable tokens whose probabilities sum to `top_p` can be sampled (nucleus
            sampling, Holtzman et al. 2020); in (0, 1].

    Returns:
        (...) int32.
    """
    probabilities = ops.softmax(filter_logits(logits / temperature, top_k, top_p), axis=-1)
    reached = ops.cumsum(probabilities, axis=-1)  # (..., V)
    wanted = uniform * reached[..., -1] * (1.0 - 1e-6)  # less than the last sum in spite of rounding
    return ops.sum(ops.cast(reached <= wanted[..., None], "int32"), axis=-1)


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: Any = 1.0) -> Tensor:
    """Makes improbable tokens impossible, as described in `sample_tokens`.

    Tokens with the same probability as the last token that stays also stay.
    """
    vocabulary = logits.shape[-1]
    if top_k is not None and top_k < vocabulary:
        least = ops.top_k(logits, top_k)[0][..., -1:]
        logits = ops.where(logits >= least, logits, IMPOSSIBLE)
    if not is_static(top_p, 1.0):
        probabilities = ops.softmax(logits, axis=-1)
        falling = -ops.sort(-probabilities, axis=-1)
        needed = ops.cumsum(falling, axis=-1) - falling < top_p  # the more probable tokens do not reach top_p
        least = ops.min(ops.where(needed, falling, 1.0), axis=-1, keepdims=True)
        logits = ops.where(probabilities >= least, logits, IMPOSSIBLE)
    return logits


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Returns the log-probability of tokens (...) under logits (..., V): (...) float32."""
    chosen = ops.take_along_axis(logits, ops.expand_dims(tokens, -1), axis=-1)[..., 0]
    return chosen - ops.logsumexp(logits, axis=-1)
