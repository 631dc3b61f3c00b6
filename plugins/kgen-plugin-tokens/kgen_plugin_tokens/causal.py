"""An autoregressive model of tokens: trained on whole sequences, sampled token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import fori_loop, slice_update
from kgen.options import is_static
from kgen_plugin_tokens.sampling import guide
from kgen_plugin_tokens.stack import Stack, places_initializer
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = Mapping[str, Tensor]


class CausalModel(keras.layers.Layer):
    """p(x | text) as the product of p(token | tokens before it, text) over the tokens in their reading order.

    Position i of the sequence holds token i - 1 (for i = 0, a start vector from the pooled text) and predicts token i.
    The query is rotated by the place of token i, and the key by the place of token i - 1. Therefore every reading order
    works.

    Args:
        options: Options of the transformer.
        shape: Shape of the grid of tokens.
        vocabulary: Number of different tokens.
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
        self.count = int(np.prod(shape))
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(vocabulary, options.width, dtype=policy, name="embedding")
        self.start = keras.layers.Dense(options.width, dtype=policy, name="start")
        self.stack = Stack(options, shape, vocabulary, forbidden_token=forbidden_token, dtype=policy, name="stack")

    def build(self, sequence_shape: tuple[int | None, ...], pooled_shape: tuple[int | None, ...]) -> None:
        self.embedding.build((None, None))
        self.start.build(pooled_shape)
        self.stack.build(sequence_shape)
        shape = (self.count + 1, self.options.width)
        self.targets = self.add_weight(name="targets", shape=shape, initializer=places_initializer())
        if self.options.positions == "learned":
            self.sources = self.add_weight(name="sources", shape=shape, initializer=places_initializer())

    # ---- training -------------------------------------------------------------------------------------------------

    def call(self, tokens: Tensor, order: Tensor, condition: Condition, training: bool = False) -> Tensor:
        """Returns the logits of all tokens, each given the tokens before it.

        Args:
            tokens: (B, N) int32, in their reading order.
            order: (B or 1, N) int32, their places on the grid.

        Returns:
            (B, N, vocabulary) float32.
        """
        start = self.start(condition["pooled"])[:, None]  # (B, 1, C)
        x = ops.concatenate([start, self.embedding(tokens[:, :-1])], axis=1)  # (B, N, C)
        before = ops.pad(order[:, :-1], ((0, 0), (1, 0)), constant_values=self.count)  # (B or 1, N)
        return self.stack(self._placed(x, order, before), condition, order, before, causal=True, training=training)

    def _placed(self, x: Tensor, order: Tensor, before: Tensor) -> Tensor:
        """Adds vectors to x (B, n, C) for the place to predict and, if learned, for the place of the given token."""
        x = x + ops.cast(ops.take(self.targets, order, axis=0), x.dtype)
        if self.options.positions == "learned":
            x = x + ops.cast(ops.take(self.sources, before, axis=0), x.dtype)
        return x

    # ---- sampling -------------------------------------------------------------------------------------------------

    def sample(
        self,
        order: Tensor,
        condition: Condition,
        null_condition: Condition,
        sample_tokens: Callable[[Tensor, Tensor], Tensor],
        guidance: Tensor | float = 1.0,
    ) -> Tensor:
        """Samples one token after the other, with a cache of keys and values.

        Args:
            order: (B or 1, N) int32, the reading order.
            sample_tokens: Function from logits (B, vocabulary) and the position in the order to tokens (B,) int32.
            guidance: Weight of classifier-free guidance; 1 means no guidance, which costs half as much.

        Returns:
            (B, N) int32, in the reading order.
        """
        count, guided = ops.shape(condition["mask"])[0], not is_static(guidance, 1.0)
        if guided:
            condition = {name: ops.concatenate([condition[name], null_condition[name]]) for name in condition}
        memory, caches = self.stack.begin(condition)
        start = self.start(condition["pooled"])  # (B or 2B, C)

        def body(index: Tensor, state: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens, last, caches = state
            shown = ops.where(index == 0, start, self.embedding(last))[:, None]  # (B or 2B, 1, C)
            here = ops.take(order, ops.reshape(index, (1,)), axis=1)  # (B or 1, 1)
            before = ops.take(order, ops.reshape(ops.maximum(index - 1, 0), (1,)), axis=1)
            before = ops.where(index == 0, self.count, before)
            if guided and order.shape[0] != 1:
                here, before = ops.tile(here, (2, 1)), ops.tile(before, (2, 1))
            logits, caches = self.stack.step(self._placed(shown, here, before), index, here, before, memory, caches)
            if guided:
                logits = guide(*ops.split(logits, 2), guidance)
            token = sample_tokens(logits, index)  # (B,)
            tokens = slice_update(tokens, (0, index), token[:, None])
            return tokens, ops.tile(token, 2) if guided else token, caches

        rows = ops.shape(start)[0]
        tokens, last = ops.zeros((count, self.count), "int32"), ops.zeros((rows,), "int32")
        return fori_loop(0, self.count, body, (tokens, last, caches))[0]
