"""The tokens of an image as a condition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt
from typing_extensions import TypedDict

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_json
from kgen.nn import TransformerBlock

FILE = "tokens.json"

PAD, START, UNKNOWN = 0, 1, 2
RESERVED = 3

MAX_VOCABULARY = 2**24
"""All tokens must be smaller than this number."""


class Learned(TypedDict):
    """The content of `tokens.json`."""

    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    length: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]


class ImageTokens(Encoder):
    """A bidirectional transformer over the tokens of an image (Xiong et al. 2020), with learned positions.

    "sequence" has one position per token, and "pooled" is its mean over the real positions. The number of different
    tokens, and their number per image, are learned from the data. The null input is one position, which stands for no
    image. All unknown tokens share one vector.

    Args:
        field: The field of the examples that holds the tokens: an array of whole numbers, of any shape.
        dim: Dimension of the vectors.
        depth: Number of blocks.
        heads: Number of attention heads, which must divide `dim`.
        dropout: Dropout rate of the blocks.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """

    null = None

    def __init__(
        self,
        *,
        field: Annotated[str, Field(min_length=1)] = "tokens",
        dim: Annotated[int, Field(ge=8)] = 128,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        self.field = field
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.fields = (field,)
        self.learned: tuple[int, int] | None = None
        policy = self.dtype_policy
        self.blocks = [TransformerBlock(heads, 4 * dim, dropout, dtype=policy, name=f"block_{i}") for i in range(depth)]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self._learned()[1], self.dim)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def adapt(self, inputs: Sequence[np.ndarray]) -> None:
        largest, longest = -1, 0
        for tokens in map(_row, inputs):
            largest, longest = max(largest, int(tokens.max(initial=-1))), max(longest, len(tokens))
        if largest < 0:
            raise DataError(f"encoder 'tokens' cannot learn from images without tokens: check the field '{self.field}'")
        self.learned = largest + 1, longest

    def _learned(self) -> tuple[int, int]:
        """The number of different tokens, and the number of tokens per image."""
        if self.learned is None:
            raise ConfigError("encoder 'tokens' has learned no tokens yet: call its adapt(tokens) first")
        return self.learned

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        """Returns ids, int32 (B, L).

        Raises:
            ConfigError: An input is not an array of tokens, or is too long.
        """
        vocabulary, length = self._learned()
        ids = np.full((len(inputs), length), PAD, np.int32)  # (B, L)
        ids[:, 0] = START
        for row, tokens in zip(ids, inputs, strict=True):
            found = _row([] if tokens is None else tokens)
            if len(found) > length:
                raise ConfigError(f"an image has {len(found)} tokens, but those of the training had at most {length}")
            row[: len(found)] = np.where(found < vocabulary, found + RESERVED, UNKNOWN)
        return {"ids": ids}

    def parse(self, text: str, field: str) -> Any:
        raise ConfigError(f"'{text[:40]}' is not an image: 'kgen caption RUN IMAGE' reads images")

    # ---- conditions -----------------------------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        vocabulary, length = self._learned()
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.tokens = self.add_weight(shape=(vocabulary + RESERVED, self.dim), initializer=normal, name="tokens")
        self.positions = self.add_weight(shape=(length, self.dim), initializer=normal, name="positions")
        for block in self.blocks:
            block.build((None, length, self.dim))
        self.norm.build((None, length, self.dim))

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], PAD), self.compute_dtype)  # (B, L)
        x = ops.cast(ops.take(self.tokens, tokens["ids"], axis=0) + self.positions, self.compute_dtype)  # (B, L, D)
        for block in self.blocks:
            x = block(x, mask, training=training)
        x = self.norm(x)
        pooled = ops.sum(x * mask[..., None], axis=1) / ops.sum(mask, axis=1)[:, None]  # (B, D)
        return {"sequence": x, "mask": mask, "pooled": pooled}

    # ---- files ----------------------------------------------------------------------------------------------------

    def save_assets(self, path: str | Path) -> None:
        vocabulary, length = self._learned()
        text = json.dumps({"vocabulary": vocabulary, "length": length})
        (Path(path) / FILE).write_text(text, encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        found = read_json(Path(path) / FILE, Learned)
        self.learned = found["vocabulary"], found["length"]


def _row(tokens: Any) -> np.ndarray:
    """The tokens of an image, row by row: int64 (N,). Raises ConfigError for anything else."""
    found = np.asarray(tokens)
    if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= MAX_VOCABULARY):
        what = f"{found.dtype} {tokens!r}"[:60]
        raise ConfigError(f"the tokens of an image are whole numbers from 0 to {MAX_VOCABULARY - 1:,}, not {what}")
    return found.reshape(-1).astype(np.int64)
