"""A transformer over byte pairs, trained with the generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, ConfigError, DataError, Encoder
from kgen.nn import TransformerBlock
from kgen_plugin_text.bpe import PAD, SMALLEST, BytePairs

FILE = "tokenizer.json"


class TransformerText(Encoder):
    """A bidirectional pre-norm transformer (Vaswani et al. 2017; Xiong et al. 2020) with learned positions.

    "sequence" is the normalized output, one position per token, after one for a start token. "pooled" is its mean over
    the real positions. The empty text is the start token alone.

    Args:
        vocabulary: Largest number of tokens. Only byte pairs that occur twice in the captions are learned.
        length: Number of tokens per text, including the start token. Longer texts are truncated.
        dim: Dimension of the embeddings.
        depth: Number of blocks.
        heads: Number of attention heads. It must divide `dim`.
        expansion: Width of the blocks' hidden layer as a multiple of `dim`.
        dropout: Dropout rate on the output of each attention and hidden layer, in [0, 1).
        lowercase: Whether texts are lowercased.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """

    def __init__(
        self,
        *,
        vocabulary: Annotated[int, Field(ge=SMALLEST)] = 4096,
        length: PositiveInt = 32,
        dim: PositiveInt = 192,
        depth: PositiveInt = 3,
        heads: PositiveInt = 4,
        expansion: PositiveInt = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        lowercase: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        self.vocabulary = vocabulary
        self.length = length
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.expansion = expansion
        self.dropout = dropout
        self.lowercase = lowercase
        self.tokenizer: BytePairs | None = None
        self.blocks = [
            TransformerBlock(heads, expansion * dim, dropout, dtype=self.dtype_policy, name=f"block_{i}")
            for i in range(depth)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=self.dtype_policy, name="norm")

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def adapt(self, inputs: Sequence[str]) -> None:
        if not inputs:
            raise DataError("encoder 'transformer' cannot learn a vocabulary: there are no captions")
        self.tokenizer = BytePairs.learn(inputs, self.vocabulary, self.lowercase)

    def _learned(self) -> BytePairs:
        if self.tokenizer is None:
            raise ConfigError("encoder 'transformer' has no vocabulary yet: call its adapt(captions) first")
        return self.tokenizer

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.tokens = self.add_weight(shape=(self._learned().size, self.dim), initializer=normal, name="tokens")
        self.positions = self.add_weight(shape=(self.length, self.dim), initializer=normal, name="positions")
        for block in self.blocks:
            block.build((None, self.length, self.dim))
        self.norm.build((None, self.length, self.dim))

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        return {"ids": self._learned()(inputs, self.length)}  # (B, L)

    def unread(self, value: str) -> str:
        return self._learned().unread(value, self.length)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], PAD), self.compute_dtype)  # (B, L)
        x = ops.take(self.tokens, tokens["ids"], axis=0) + self.positions  # (B, L, D)
        x = ops.cast(x, self.compute_dtype)
        for block in self.blocks:
            x = block(x, mask, training=training)
        x = self.norm(x)
        return {"sequence": x, "mask": mask, "pooled": masked_mean(x, mask)}

    def save_assets(self, path: str | Path) -> None:
        self._learned().save(Path(path) / FILE)

    def load_assets(self, path: str | Path) -> None:
        self.tokenizer = BytePairs.load(Path(path) / FILE, self.lowercase)


def masked_mean(x: Any, mask: Any) -> Any:
    """Returns the mean over the real positions: x (B, L, D), mask (B, L) -> (B, D)."""
    return ops.sum(x * mask[..., None], axis=1) / ops.sum(mask, axis=1)[:, None]
