"""The encoder: a learned vector for each word, without a vocabulary."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from kgen import ConditionSpace, Encoder
from pydantic import PositiveInt

PAD, START, WORDS = 0, 1, 2
"""The rows of the table for padding, for the start of each text, and for the first word."""


class HashedWords(Encoder):
    """A learned vector for each word. A hash of the word is its row in a table (Weinberger et al. 2009).

    There is no vocabulary, so every word has a vector, but different words can share one. "sequence" holds a start
    vector and those of the words, and "pooled" is their mean.

    Args:
        dim: Dimension of the vectors.
        length: Number of vectors per text, including the start vector. Further words are ignored.
        rows: Number of rows of the table for words.
    """

    def __init__(
        self, *, dim: PositiveInt = 64, length: PositiveInt = 16, rows: PositiveInt = 4096, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.length = length
        self.rows = rows
        self.table = keras.layers.Embedding(WORDS + rows, dim)

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def row(self, word: str) -> int:
        """The row of a word. The hash is the same in every process, unlike Python's own."""
        return WORDS + zlib.crc32(word.encode("utf-8")) % self.rows

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        found = np.full((len(inputs), self.length), PAD, np.int32)  # (B, L)
        for ids, text in zip(found, inputs, strict=True):
            words = [START, *map(self.row, _words(text))][: self.length]
            ids[: len(words)] = words
        return {"ids": found}

    def unread(self, value: str) -> str:
        count, read = len(_words(value)), self.length - 1
        return f"only the first {read} of its {count} words are read" if count > read else ""

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], PAD), self.compute_dtype)  # (B, L)
        sequence = self.table(tokens["ids"]) * mask[..., None]  # (B, L, D)
        pooled = ops.sum(sequence, axis=1) / ops.sum(mask, axis=1)[:, None]  # (B, D)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}


def _words(text: str) -> list[str]:
    return text.lower().split()
