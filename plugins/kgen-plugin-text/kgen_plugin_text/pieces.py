"""The tokenizer of a pretrained model, with the model's special tokens. It runs on the host, without TensorFlow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer


class TextTokenizer(ABC):
    """Turns text into ids, with the model's special tokens. It can be pickled, and used by several threads."""

    length: int

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of different ids."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """Returns at most `length` ids. The last is the end token, even if the text was truncated."""

    @abstractmethod
    def counts(self, text: str) -> tuple[int, int]:
        """Returns the number of tokens of a whole text, including special ones, and that of unknown tokens it reads."""

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns "token_ids" and "padding_mask" (1 for a token, 0 for padding), int32 (B, length)."""
        ids = np.zeros((len(texts), self.length), np.int32)  # (B, L)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            found = self.ids(plain(text))
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return {"token_ids": ids, "padding_mask": mask}


def plain(text: str) -> str:
    """Replaces lone surrogates, which no tokenizer accepts, by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Pieces(TextTokenizer):
    """A tokenizer of the package `tokenizers`, whose post-processor adds the special tokens."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)

    @property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)

    def counts(self, text: str) -> tuple[int, int]:
        encoding = self.tokenizer.encode(text)
        marks = sum(encoding.special_tokens_mask)
        cut = sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in encoding.overflowing)
        unknown = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        read = [i for i, mark in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not mark]
        return marks + len(read) + cut, read.count(unknown) if unknown is not None else 0
