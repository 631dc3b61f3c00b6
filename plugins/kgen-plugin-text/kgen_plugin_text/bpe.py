"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), learned from captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kgen import RunError
from kgen_plugin_text.cleaning import clean

PAD, START = 0, 1
RESERVED = 2
"""Number of kgen's special ids, which come first. No text contains them."""
BYTES = 256
SMALLEST = RESERVED + BYTES


class BytePairs:
    """Turns text into ids. The vocabulary holds every byte, so it can encode any text. The object can be pickled.

    Args:
        tokenizer: Trained tokenizer of the package `tokenizers`, without special tokens.
        lowercase: Whether texts are lowercased first.
    """

    def __init__(self, tokenizer: Tokenizer, lowercase: bool) -> None:
        self.tokenizer = tokenizer
        self.lowercase = lowercase

    @classmethod
    def learn(cls, texts: Sequence[str], vocabulary: int, lowercase: bool) -> BytePairs:
        """Learns at most `vocabulary` ids, including `SMALLEST` fixed ones. A pair must occur twice to be learned."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - RESERVED,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        pairs = cls(tokenizer, lowercase)
        tokenizer.train_from_iterator((pairs._prepare(text) for text in texts), trainer)
        return pairs

    @classmethod
    def load(cls, path: Path, lowercase: bool) -> BytePairs:
        """Reads a file of `save`. Raises RunError if the file is missing or damaged."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")), lowercase)
        except Exception as error:  # the package raises bare Exception
            raise RunError(f"the vocabulary {path} cannot be read: {error}") from error

    def save(self, path: Path) -> None:
        path.write_text(self.tokenizer.to_str(), encoding="utf-8")

    @property
    def size(self) -> int:
        """Number of ids."""
        return int(self.tokenizer.get_vocab_size()) + RESERVED

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encodes B texts.

        Returns:
            int32 (B, length): `START`, then the text, truncated or padded with `PAD`.
        """
        ids = np.full((len(texts), length), PAD, np.int32)  # (B, L)
        ids[:, 0] = START
        for row, text in zip(ids, texts, strict=True):
            found = self.tokenizer.encode(self._prepare(text)).ids[: length - 1]
            row[1 : 1 + len(found)] = np.asarray(found, np.int32) + RESERVED
        return ids

    def unread(self, text: str, length: int) -> str:
        """Returns a message about the tokens of a text beyond `length`, or ""."""
        count = len(self.tokenizer.encode(self._prepare(text)).ids) + 1
        return f"only the first {length} of its {count} tokens are read" if count > length else ""

    def _prepare(self, text: str) -> str:
        text = clean(text)
        return text.lower() if self.lowercase else text
