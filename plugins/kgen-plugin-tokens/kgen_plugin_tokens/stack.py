"""A stack of transformer blocks: runs over a whole sequence, or over one position at a time with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import slice_update
from kgen_plugin_tokens.positions import rotations
from kgen_plugin_tokens.sampling import IMPOSSIBLE
from kgen_plugin_tokens.transformer import Block, Pair, Transformer, key_mask, rms_norm

Tensor = Any
Condition = Mapping[str, Tensor]


@dataclass
class Memory:
    """The text, as it is needed to run over one position at a time.

    Args:
        texts: Keys and values of the text for each block; None if the text is a prefix.
        text_mask: bool (B, 1, 1, L), False for padding.
        length: Length of the prefix; 0 if there is none.
    """

    texts: list[Pair | None]
    text_mask: Tensor
    length: int


class Stack(keras.layers.Layer):
    """Maps the vectors of a sequence to the logits of tokens.

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
        self.barred = (
            None if forbidden_token is None else np.eye(vocabulary, dtype=np.float32)[forbidden_token] * IMPOSSIBLE
        )  # (V,)
        policy = self.dtype_policy
        self.angles = rotations(shape, options.head_dim) if options.positions == "rotary" else None
        self.blocks = [Block(options, dtype=policy, name=f"block{i}") for i in range(options.depth)]
        self.norm_out = rms_norm(policy, "norm_out")
        self.logits = keras.layers.Dense(vocabulary, dtype=policy, name="logits")
        if options.text == "prefix":
            self.prefix = keras.layers.Dense(options.width, dtype=policy, name="prefix")

    def build(self, sequence_shape: tuple[int | None, ...]) -> None:
        x_shape = (None, None, self.options.width)
        for block in self.blocks:
            block.build(x_shape, sequence_shape)
        self.norm_out.build(x_shape)
        self.logits.build(x_shape)
        self.length = 0
        if self.options.text == "prefix":
            self.length = int(sequence_shape[1] or 0)
            self.prefix.build(sequence_shape)
            self.prefix_places = self.add_weight(
                name="prefix_places", shape=(self.length, self.options.width), initializer=places_initializer()
            )

    # ---- a whole sequence -----------------------------------------------------------------------------------------

    def call(
        self,
        x: Tensor,
        condition: Condition,
        queries: Tensor,
        keys: Tensor,
        causal: bool = False,
        training: bool = False,
    ) -> Tensor:
        """Runs all blocks.

        Args:
            x: (B, N, C).
            condition: The condition of the text.
            queries, keys: (B or 1, N) int32, the places on the grid by which queries and keys are rotated. The number
                of places stands for no place.
            causal: Whether a position sees only itself and the positions before it.

        Returns:
            (B, N, vocabulary) float32.
        """
        text_mask = key_mask(condition["mask"])
        sees = self._sees(text_mask, causal)
        if self.length:
            x = ops.concatenate([self._prefix(condition), x], axis=1)  # (B, L + N, C)
        queries, keys = self._angles(queries, self.length), self._angles(keys, self.length)
        for block in self.blocks:
            text = block.read(condition["sequence"])
            x = block(x, block.remember(x, keys), sees, queries, text, text_mask, training=training)
        return self._head(x[:, self.length :])

    def _sees(self, text_mask: Tensor, causal: bool) -> Tensor | None:
        """Returns the attention mask, bool (B or 1, 1, L + N, L + N), or None if all positions see all."""
        if not self.length and not causal:
            return None
        total = self.length + self.count
        sees = np.tri(total, dtype=bool) if causal else np.ones((total, total), bool)
        sees[: self.length] = False
        sees[:, : self.length] = True  # the prefix sees itself, and all positions see the prefix
        sees = ops.convert_to_tensor(sees)[None, None]
        return ops.logical_and(sees, self._with_places(text_mask)) if self.length else sees

    def _with_places(self, text_mask: Tensor) -> Tensor:
        """Extends the mask of a prefix, bool (B, 1, 1, L), by True for all places of the grid: (B, 1, 1, L + N)."""
        return ops.pad(text_mask, ((0, 0), (0, 0), (0, 0), (0, self.count)), constant_values=True)

    def _prefix(self, condition: Condition) -> Tensor:
        sequence = self.prefix(condition["sequence"])
        return sequence + ops.cast(self.prefix_places, sequence.dtype)  # (B, L, C)

    def _angles(self, places: Tensor, before: int = 0) -> Tensor | None:
        """Returns the angles of `before` positions without a place, followed by those of places (B or 1, n).

        The result is (B or 1, before + n, d/2).
        """
        if self.angles is None:
            return None
        return ops.take(self.angles, ops.pad(places, ((0, 0), (before, 0)), constant_values=self.count), axis=0)

    def _head(self, x: Tensor) -> Tensor:
        logits = ops.cast(self.logits(self.norm_out(x)), "float32")
        return logits if self.barred is None else logits + ops.convert_to_tensor(self.barred)

    # ---- one position at a time -----------------------------------------------------------------------------------

    def begin(self, condition: Condition) -> tuple[Memory, list[Pair]]:
        """Returns what `step` needs: the text, and one cache of keys and values (B, H, L + N, d) per block."""
        texts = [block.read(condition["sequence"]) for block in self.blocks]
        memory = Memory(texts, key_mask(condition["mask"]), self.length)
        batch = ops.shape(condition["mask"])[0]
        shape = (batch, self.options.heads, self.length + self.count, self.options.head_dim)
        caches = [(ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)) for _ in self.blocks]
        if self.length:
            x, nowhere = self._prefix(condition), self._angles(ops.zeros((1, 0), "int32"), self.length)
            for i, block in enumerate(self.blocks):
                pair = block.remember(x, nowhere)
                caches[i] = _store(caches[i], pair, 0)
                x = block(x, pair, memory.text_mask, nowhere, texts[i], memory.text_mask)
        return memory, caches

    def step(
        self, x: Tensor, index: Tensor, queries: Tensor, keys: Tensor, memory: Memory, caches: list[Pair]
    ) -> tuple[Tensor, list[Pair]]:
        """Runs all blocks on one position, which sees itself and the positions before it.

        Args:
            x: (B, 1, C).
            index: int32 scalar, the index of the position in the sequence.
            queries, keys: (B or 1, 1) int32, as for `call`.

        Returns:
            (B, vocabulary) float32, and `caches` with the keys and values of this position.
        """
        sees = (ops.arange(self.length + self.count) <= index + memory.length)[None, None, None]  # (1, 1, 1, L + N)
        if memory.length:
            sees = ops.logical_and(sees, self._with_places(memory.text_mask))
        query_angles, key_angles = self._angles(queries), self._angles(keys)
        kept = []
        for block, text, cache in zip(self.blocks, memory.texts, caches, strict=True):
            pair = _store(cache, block.remember(x, key_angles), index + memory.length)
            x = block(x, pair, sees, query_angles, text, memory.text_mask)
            kept.append(pair)
        return self._head(x)[:, 0], kept


def places_initializer() -> keras.initializers.Initializer:
    """Returns the initializer of learned position vectors."""
    return keras.initializers.RandomNormal(stddev=0.02)


def _store(cache: Pair, pair: Pair, index: Any) -> Pair:
    """Writes keys and values (B, H, n, d) into the caches (B, H, T, d) at position `index`."""
    first, second = (
        slice_update(whole, (0, 0, index, 0), ops.cast(part, whole.dtype))
        for whole, part in zip(cache, pair, strict=True)
    )
    return first, second
