"""The text tower of a published CLIP, with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from kgen_plugin_text.clip import END
from kgen_plugin_text.pieces import Pieces, plain
from tokenizers import Tokenizer

from kgen import RunError
from kgen_plugin_clip.pretrained.architecture import Architecture, TextArchitecture
from kgen_plugin_clip.texts import CausalLayer

Tensor = Any

TOKENIZER = "tokenizer.json"


def saved_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer that a text tower has written. Raises RunError if the file is missing or damaged."""
    try:
        return Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
    except Exception as error:  # the package raises bare Exception
        raise RunError(f"the vocabulary {folder / TOKENIZER} cannot be read: {error}") from error


class PretrainedText(CausalLayer):
    """A causal transformer with learned positions. The features of a text are those of its first end token.

    Args:
        model: The architecture.
        tokenizer: The tokenizer, which adds the start and end token.
        padding: The token after the end of a text, which the features do not depend on.
    """

    def __init__(
        self, model: Architecture | TextArchitecture, tokenizer: Tokenizer, padding: str = END, **kwargs: Any
    ) -> None:
        tower = model.text
        style = {"hidden": tower.hidden, "activation": tower.activation, "epsilon": tower.epsilon}
        super().__init__(model.length, tower.width, tower.depth, tower.heads, style, **kwargs)
        self._vocabulary_size = model.vocabulary
        self.tokenizer = Pieces(tokenizer, model.length)
        self.end, self.padding = (int(tokenizer.token_to_id(token)) for token in (END, padding))

    def adapt(self, inputs: Sequence[str]) -> None:
        """Learns nothing: the vocabulary is that of the model."""

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns "ids", int32 (B, L): a start token, the text, an end token, and padding."""
        made = self.tokenizer(inputs)
        return {"ids": np.where(made["padding_mask"] == 1, made["token_ids"], self.padding).astype(np.int32)}

    def unread(self, value: str) -> str:
        count = self.tokenizer.counts(plain(value))[0]
        return f"only the first {self.length} of its {count} tokens are read" if count > self.length else ""

    @property
    def vocabulary_size(self) -> int:
        return self._vocabulary_size

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        ids = tokens["ids"]
        x = self.read(ids)  # (B, L, D)
        end = self._end(ids)  # (B, 1)
        return x, ops.cast(ops.arange(self.length, dtype="int32")[None] <= end, x.dtype), self.at_end(x, ids)

    def _end(self, ids: Tensor) -> Tensor:
        """The position of the first end token: (B, L) -> (B, 1)."""
        return ops.cast(ops.argmax(ops.cast(ops.equal(ids, self.end), "int32"), axis=1), "int32")[:, None]

    def at_end(self, x: Tensor, ids: Tensor) -> Tensor:
        """The features of the first end token: (B, L, D), (B, L) -> (B, D)."""
        places = ops.arange(self.length, dtype="int32")[None]  # (1, L)
        return ops.sum(x * ops.cast(ops.equal(places, self._end(ids)), x.dtype)[..., None], axis=1)

    def save_assets(self, path: Path) -> None:
        (path / TOKENIZER).write_text(self.tokenizer.tokenizer.to_str(), encoding="utf-8")
