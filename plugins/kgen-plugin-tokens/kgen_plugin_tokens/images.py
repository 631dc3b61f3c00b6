"""Images as conditions: their tokens, written as numbers, are the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field, PositiveInt
from typing_extensions import TypedDict

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_json
from kgen_plugin_tokens.stack import places_initializer
from kgen_plugin_tokens.transformer import Block, Transformer, key_mask, rms_norm

FILE = "images.json"

PAD, START, UNKNOWN = 0, 1, 2
RESERVED = 3

MAX_VOCABULARY = 2**24
"""Numbers are smaller."""


class Learned(TypedDict):
    """What a file of that name holds."""

    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    length: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]


class Images(Encoder):
    """Reads texts such as "17 3 120", the tokens of an image in their order, with a small bidirectional transformer.

    "sequence" has a position a token, "pooled" is its mean over the real ones. How many different tokens there are, and
    how many a text, is learned from the captions. The empty text is one position that stands for no image; tokens
    that were not learned share a vector.

    Args:
        dim: Width. depth: Blocks. heads: Of attention; they must divide `dim` into an even number of features.
        dropout: On what each branch of a block adds, in [0, 1).

    Raises:
        ValueError: `heads` does not divide `dim` so.
    """

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=8)] = 128,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.learned: tuple[int, int] | None = None
        policy = self.dtype_policy
        options = Transformer(width=dim, depth=depth, heads=heads, dropout=dropout, positions="learned", text="prefix")
        self.blocks = [Block(options, dtype=policy, name=f"block{i}") for i in range(depth)]
        self.norm_out = rms_norm(policy, "norm_out")

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self._learned()[1], self.dim)

    def adapt(self, texts: Sequence[str]) -> None:
        try:
            rows = [numbers(text) for text in texts]
        except ConfigError as error:
            raise DataError(f"encoder 'images' cannot learn from these captions: {error}") from error
        if not any(rows):
            raise DataError("encoder 'images' cannot learn tokens: there are no captions")
        self.learned = 1 + max(max(row) for row in rows if row), max(map(len, rows))

    def _learned(self) -> tuple[int, int]:
        """How many tokens there are, and how many a text."""
        if self.learned is None:
            raise ConfigError("encoder 'images' knows no tokens yet: call its adapt(captions) first")
        return self.learned

    def build(self, input_shape: Any) -> None:
        vocabulary, length = self._learned()
        self.tokens = self.add_weight(
            shape=(vocabulary + RESERVED, self.dim), initializer=places_initializer(), name="tokens"
        )
        self.places = self.add_weight(shape=(length, self.dim), initializer=places_initializer(), name="places")
        for block in self.blocks:
            block.build((None, length, self.dim), (None, length, self.dim))
        self.norm_out.build((None, length, self.dim))

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """int32 (B, L).

        Raises:
            ConfigError: a text is no sequence of whole numbers, or too long.
        """
        vocabulary, length = self._learned()
        ids = np.full((len(texts), length), PAD, np.int32)  # (B, L)
        for row, text in zip(ids, texts, strict=True):
            found = np.array(numbers(text), np.int32)
            if len(found) > length:
                raise ConfigError(f"prompt '{_short(text)}' has {len(found)} tokens, but images have at most {length}")
            row[: len(found)] = np.where(found < vocabulary, found + RESERVED, UNKNOWN)
            row[0] = row[0] or START
        return {"ids": ids}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], PAD), self.compute_dtype)  # (B, L)
        sees = key_mask(mask)
        x = ops.cast(ops.take(self.tokens, tokens["ids"], axis=0) + self.places, self.compute_dtype)  # (B, L, D)
        for block in self.blocks:
            x = block(x, block.remember(x, None), sees, None, None, None, training=training)
        x = self.norm_out(x)
        pooled = ops.sum(x * mask[..., None], axis=1) / ops.sum(mask, axis=1)[:, None]  # (B, D)
        return {"sequence": x, "mask": mask, "pooled": pooled}

    def save_assets(self, path: str | Path) -> None:
        vocabulary, length = self._learned()
        text = json.dumps({"vocabulary": vocabulary, "length": length})
        (Path(path) / FILE).write_text(text, encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        found = read_json(Path(path) / FILE, Learned)
        self.learned = found["vocabulary"], found["length"]


def numbers(text: str) -> list[int]:
    """The tokens of an image. Raises ConfigError where the text is something else."""
    words = text.split()
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= 8 and int(word) < MAX_VOCABULARY):
            raise ConfigError(
                f"'{_short(text)}' is not the tokens of an image, such as '17 3 120': '{_short(word)}' is no such "
                "number (images are read by 'kgen caption')"
            )
    return [int(word) for word in words]


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
