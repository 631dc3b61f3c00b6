"""A model of masked tokens given the others: trained on random masks, sampled in a few passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import fori_loop, show_step
from kgen.options import is_static
from kgen.random import uniform
from kgen_plugin_tokens.masking import ranks
from kgen_plugin_tokens.sampling import guide, log_probability, sample_tokens
from kgen_plugin_tokens.stack import Stack, places_initializer
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = Mapping[str, Tensor]

GOLDEN = (5**0.5 - 1) / 2

CERTAIN = 1e9
"""The certainty of a token that stays."""


class MaskedModel(keras.layers.Layer):
    """p(token | tokens that are not masked, text) for all places at once (Chang et al. 2022).

    Args:
        options: Options of the transformer.
        shape: Shape of the grid of tokens.
        vocabulary: Number of different tokens. This number itself is the mask token.
        forbidden_token: A token that is never predicted, or None.
    """

    def __init__(
        self,
        options: Transformer,
        shape: tuple[int, ...],
        vocabulary: int,
        *,
        forbidden_token: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.options = options
        self.vocabulary = vocabulary
        self.shape = shape
        self.count = int(np.prod(shape))
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(vocabulary + 1, options.width, dtype=policy, name="embedding")
        self.pooled = keras.layers.Dense(options.width, dtype=policy, name="pooled")
        self.stack = Stack(options, shape, vocabulary, forbidden_token=forbidden_token, dtype=policy, name="stack")

    def build(self, sequence_shape: tuple[int | None, ...], pooled_shape: tuple[int | None, ...]) -> None:
        self.embedding.build((None, None))
        self.pooled.build(pooled_shape)
        self.stack.build(sequence_shape)
        self.places = self.add_weight(
            name="places", shape=(self.count, self.options.width), initializer=places_initializer()
        )

    def call(self, tokens: Tensor, condition: Condition, training: bool = False) -> Tensor:
        """Returns the logits of all tokens.

        Args:
            tokens: (B, N) int32, row by row; masked tokens are `vocabulary`.

        Returns:
            (B, N, vocabulary) float32.
        """
        x = self.embedding(tokens) + self.pooled(condition["pooled"])[:, None]  # (B, N, C)
        x = x + ops.cast(self.places, x.dtype)
        places = ops.arange(self.count, dtype="int32")[None]
        return self.stack(x, condition, places, places, training=training)

    def masked(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Masks tokens (B, N) where `mask` (B, N) is True."""
        return ops.where(mask, self.vocabulary, tokens)

    def fill(
        self,
        tokens: Tensor,
        counts: np.ndarray | Tensor,
        keys: Tensor,
        condition: Condition,
        null_condition: Condition,
        *,
        temperature: Tensor | float = 1.0,
        top_p: Tensor | float = 1.0,
        randomness: Tensor | float = 0.0,
        guidance: Tensor | float = 1.0,
        rising: bool = False,
        revise: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Fills in the masked tokens, the most certain ones first (MaskGIT, section 3.2).

        Args:
            tokens: (B, N) int32. In each row, `counts[0]` tokens are masked.
            counts: Number of masked tokens before each step: (steps,), or (steps, B, 1) int32 with one number per row.
            keys: (B, 2) int32, the keys of the random numbers.
            randomness: Scale of the Gumbel noise that is added to the certainties. It decreases to 0 at the last step.
            guidance: Weight of classifier-free guidance.
            rising: Whether that weight increases linearly over the steps, from 1 before the first step to `guidance` at
                the last one (Muse, section 2.7).
            revise: Whether tokens that were filled in can be masked again.

        Returns:
            (B, N) int32 without masked tokens, and the certainty of each token (B, N): its log-probability when it was
            filled in, or `CERTAIN` if it was given.
        """
        steps = counts.shape[0]
        counts = ops.cast(ops.convert_to_tensor(counts), "int32")
        after = ops.concatenate([counts[1:], ops.zeros_like(counts[:1])])  # (steps,) or (steps, B, 1)
        guided = not is_static(guidance, 1.0)
        if guided:
            both = {name: ops.concatenate([condition[name], null_condition[name]]) for name in condition}

        def logits_of(tokens: Tensor, progress: Tensor) -> Tensor:
            if not guided:
                return self(tokens, condition)
            logits, null = ops.split(self(ops.concatenate([tokens, tokens]), both), 2)
            return guide(logits, null, 1.0 + (guidance - 1.0) * (progress if rising else 1.0))

        def body(step: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            tokens, certainty = state
            progress = ops.cast(step + 1, "float32") / steps
            logits = logits_of(tokens, progress)
            numbers = uniform(keys, 2 * step, (self.count,))
            sampled = sample_tokens(logits, numbers, temperature=temperature, top_p=top_p)
            empty = tokens == self.vocabulary
            filled = ops.where(empty, sampled, tokens)
            show_step(ops.reshape(filled, (-1, *self.shape)))
            if revise:  # all tokens that were not given are rated by the current logits
                certainty = ops.where(certainty < CERTAIN, log_probability(logits, filled), certainty)
            else:
                certainty = ops.where(empty, log_probability(logits, sampled), certainty)
            noise = -ops.log(-ops.log(uniform(keys, 2 * step + 1, (self.count,)) + 1e-9) + 1e-9)
            judged = certainty + randomness * (1.0 - progress) * noise
            stays = certainty >= CERTAIN if revise else ops.logical_not(empty)
            judged = ops.where(stays, CERTAIN, judged)
            again = ranks(judged) < ops.take(after, step, axis=0)  # the least certain
            return self.masked(filled, again), certainty

        start = ops.where(tokens == self.vocabulary, 0.0, CERTAIN)
        return fori_loop(0, steps, body, (tokens, start))  # type: ignore[no-any-return]


def masked_loss(logits: Tensor, tokens: Tensor, weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns the mean negative log-probability (B,) of the tokens (B, N) where `weight` (B, N) is 1, in nats.

    Args:
        logits: (B, N, V) float32.
        smoothing: Label smoothing: the share of the target probability that is spread evenly over all tokens (Szegedy
            et al. 2016).
    """
    losses = -log_probability(logits, tokens)
    if smoothing:
        even = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        losses = (1.0 - smoothing) * losses + smoothing * even
    return ops.sum(losses * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)


def any_order_bound(
    model: MaskedModel, tokens: Tensor, condition: Condition, samples: int, hidden: np.ndarray | Tensor
) -> Tensor:
    """Estimates a lower bound of the log-likelihood of the `hidden` tokens given the others.

    The bound is the mean log-probability over all orders of filling in the tokens one by one (Uria et al. 2014;
    Hoogeboom et al. 2022, equation 5).

    The masks are the same in each call. Their sizes are spread evenly over 1 .. M, and each place is masked about
    equally often: the masks are windows of one random permutation, which begin at multiples of the golden ratio. With
    few masks, the estimate may exceed the likelihood: the probabilities that it gave to all 729 sequences of a small
    model summed to 4.8 to 8.4 with a single mask, and to 0.90 to 1.05 with 16.

    Args:
        tokens: (B, N) int32.
        samples: Number of masks.
        hidden: (M,) the places of the hidden tokens; or (B, N) bool, which differs between rows.

    Returns:
        (B,) nats.
    """
    if isinstance(hidden, np.ndarray):
        masks, most = _windows(hidden, model.count, samples)[:, None], float(len(hidden))  # (samples, 1, N)
    else:
        masks = _windows_of_rows(hidden, samples)  # (samples, B, N)
        most = ops.sum(ops.cast(hidden, "float32"), axis=1)  # (B,)
    table = ops.convert_to_tensor(masks)

    def add(sample: Tensor, total: Tensor) -> Tensor:
        mask = ops.broadcast_to(ops.take(table, sample, axis=0), ops.shape(tokens))  # (B, N)
        logits = model(model.masked(tokens, mask > 0), condition)
        return total - most * masked_loss(logits, tokens, mask)

    start = ops.zeros_like(ops.cast(tokens[:, 0], "float32"))
    return fori_loop(0, samples, add, start) / samples


def _windows(hidden: np.ndarray, count: int, samples: int) -> np.ndarray:
    """Returns the masks of M hidden places: (samples, count) float32, 1 where masked."""
    most, mixed = len(hidden), np.random.default_rng(0).permutation(hidden)
    masks = np.zeros((samples, count), np.float32)
    for sample in range(samples):
        size, start = 1 + int(most * (sample + 0.5) / samples), int(most * (sample * GOLDEN % 1.0))
        masks[sample, np.roll(mixed, -start)[:size]] = 1.0
    return masks


def _windows_of_rows(hidden: Tensor, samples: int) -> Tensor:
    """Returns the masks of the places that are True in (B, N): (samples, B, N) float32, 1 where masked."""
    mixed = np.random.default_rng(0).random(hidden.shape[1]).astype(np.float32)  # (N,)
    place = ranks(ops.where(hidden, mixed, 2.0))[None]  # (1, B, N), 0 to M - 1 for hidden places
    most = ops.sum(ops.cast(hidden, "int32"), axis=1)[None, :, None]  # (1, B, 1)
    numbers = np.arange(samples)[:, None, None]
    sizes, starts = (
        ops.cast(ops.cast(most, "float32") * ops.convert_to_tensor(share.astype(np.float32)), "int32")
        for share in ((numbers + 0.5) / samples, numbers * GOLDEN % 1.0)
    )  # (samples, B, 1)
    inside = ops.mod(place - starts, ops.maximum(most, 1)) <= sizes
    return ops.cast(ops.logical_and(inside, hidden[None]), "float32")
