"""Lengths of sequences, which are padded with end tokens. A `LengthHead` predicts a length before any token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
from keras import ops

from kgen import Space, SpaceError
from kgen.options import is_static
from kgen_plugin_tokens.sampling import guide, log_probability, sample_tokens

Tensor = Any
Condition = Mapping[str, Tensor]

Length = Literal["fixed", "predicted"]

END = 0
"""The token that ends a sequence and pads it."""


def check_length(length: Length | None, space: Space) -> None:
    """Raises SpaceError if there is a length, but the tokens form a grid or are all the same."""
    if length is None:
        return
    if len(space.shape) != 1:
        raise SpaceError(
            f"length '{length}' is for sequences, whose token {END} is the end, but these are {space}: leave it out"
        )
    if (space.vocabulary or 0) < 2:
        raise SpaceError(f"length '{length}' needs a token besides the end, but these are {space}")


def lengths_of(tokens: Tensor) -> Tensor:
    """Returns the number of tokens (B, N) before the first end token: (B,) int32, from 0 to N."""
    return ops.sum(ops.cast(before_end(tokens), "int32"), axis=1)


def before_end(tokens: Tensor) -> Tensor:
    """Returns which tokens (B, N) come before the first end token: (B, N) bool."""
    return ops.cumsum(ops.cast(tokens == END, "int32"), axis=1) == 0


def up_to_end(tokens: Tensor) -> Tensor:
    """Like `before_end`, but True for the first end token, too. All tokens after it are certain."""
    ends = ops.cast(tokens == END, "int32")
    return ops.cumsum(ends, axis=1) - ends == 0


def ended(tokens: Tensor) -> Tensor:
    """Replaces all tokens (B, N) after the first end token by end tokens."""
    return ops.where(before_end(tokens), tokens, END)


def places_before(lengths: Tensor, count: int) -> Tensor:
    """Returns which positions are within the lengths (B,): (B, count) bool."""
    return ops.arange(count, dtype="int32")[None] < ops.cast(lengths, "int32")[:, None]


class LengthHead(keras.layers.Layer):
    """p(length | text): a categorical distribution over 0 .. N, whose logits are linear in the pooled text.

    The length is sampled before any token (Gu et al. 2018, "Non-autoregressive neural machine translation", section
    3.2; Ghazvininejad et al. 2019, "Mask-Predict", section 2.3): p(sequence) = p(length) p(tokens | length).

    Args:
        count: N, the greatest length.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.count = count
        self.logits = keras.layers.Dense(count + 1, dtype=self.dtype_policy, name="logits")

    def build(self, pooled_shape: tuple[int | None, ...]) -> None:
        self.logits.build(pooled_shape)

    def call(self, condition: Condition) -> Tensor:
        """Returns the logits of the lengths: (B, N + 1) float32."""
        return ops.cast(self.logits(condition["pooled"]), "float32")

    def log_probability(self, lengths: Tensor, condition: Condition) -> Tensor:
        """Returns the log-probability of lengths (B,), in nats: (B,)."""
        return log_probability(self(condition), lengths)

    def sample(
        self, uniform: Tensor, condition: Condition, null_condition: Condition, guidance: Tensor | float, **options: Any
    ) -> Tensor:
        """Samples lengths (B,) int32.

        Args:
            uniform: (B, 1) uniform numbers in [0, 1).
            guidance: Weight of classifier-free guidance.
            **options: Options of `sample_tokens`.
        """
        logits = self(condition)
        if not is_static(guidance, 1.0):
            logits = guide(logits, self(null_condition), guidance)
        return sample_tokens(logits, uniform[:, 0], **options)

    def condition_on_length(self, lengths: Tensor, condition: Condition) -> dict[str, Tensor]:
        """Appends the length (B,), one-hot, to the condition's "pooled", which becomes (B, P + N + 1)."""
        pooled = condition["pooled"]
        known = ops.one_hot(lengths, self.count + 1, dtype=pooled.dtype)  # (B, N + 1)
        return {**condition, "pooled": ops.concatenate([pooled, known], axis=-1)}
