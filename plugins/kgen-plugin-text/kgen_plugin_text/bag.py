"""Bags of words: a learned vector per word, without order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_json
from kgen_plugin_text.words import PAD, UNKNOWN, Words

FILE = "words.json"


class BagOfWords(Encoder):
    """Learned word vectors: "sequence" holds a start vector and those of the words, and "pooled" combines them.

    The empty text has the start vector alone. All words outside the vocabulary share one vector. It starts at zero, and
    is trained if `min_count` or `vocabulary` exclude words of the captions.

    Args:
        dim: Dimension of the vectors.
        length: Number of vectors per text, including the start vector. Further words are ignored.
        vocabulary: Largest number of words. The most frequent words are learned.
        min_count: Number of times that a word must occur in the captions to be learned.
        pooling: Pooling of the vectors: "mean" or "sum".
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 192,
        length: PositiveInt = 32,
        vocabulary: PositiveInt = 10_000,
        min_count: PositiveInt = 1,
        pooling: Literal["mean", "sum"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.length = length
        self.vocabulary = vocabulary
        self.min_count = min_count
        self.pooling = pooling
        self.words: Words | None = None

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def adapt(self, inputs: Sequence[str]) -> None:
        if not inputs:
            raise DataError("encoder 'bag' cannot learn words: there are no captions")
        self.words = Words.learn(inputs, self.vocabulary, self.min_count)

    def _learned(self) -> Words:
        if self.words is None:
            raise ConfigError("encoder 'bag' has learned no words yet: call its adapt(captions) first")
        return self.words

    def build(self, input_shape: Any) -> None:
        shape = (self._learned().size, self.dim)
        self.table = self.add_weight(shape=shape, initializer=_unknown_is_zero, name="table")

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        return {"ids": self._learned()(inputs, self.length)}  # (B, L)

    def unread(self, value: str) -> str:
        return self._learned().unread(value, self.length)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], PAD), self.compute_dtype)  # (B, L)
        x = ops.cast(ops.take(self.table, tokens["ids"], axis=0), self.compute_dtype) * mask[..., None]  # (B, L, D)
        pooled = ops.sum(x, axis=1)  # (B, D)
        if self.pooling == "mean":
            pooled = pooled / ops.sum(mask, axis=1)[:, None]
        return {"sequence": x, "mask": mask, "pooled": pooled}

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / FILE).write_text(json.dumps(self._learned().words), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        self.words = Words(read_json(Path(path) / FILE, list[str]))


def _unknown_is_zero(shape: tuple[int, ...], dtype: Any = None) -> Any:
    table = keras.initializers.RandomNormal(stddev=1.0)(shape, dtype=dtype)
    known = np.ones((shape[0], 1), np.float32)
    known[UNKNOWN] = 0.0
    return table * ops.cast(known, table.dtype)
