"""Splitting of text into words, and the vocabulary of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kgen_plugin_text.cleaning import clean

PAD, START, UNKNOWN = 0, 1, 2
RESERVED = 3

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])\w)+|[^\w\s]"
)


def split(text: str) -> list[str]:
    """Returns lowercase words. Each punctuation mark, and each Chinese or Japanese character, is a word."""
    return _WORD.findall(clean(text).lower())


class Words:
    """A vocabulary of words, each with an id."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: id_ for id_, word in enumerate(self.words, RESERVED)}

    @classmethod
    def learn(cls, texts: Sequence[str], limit: int, min_count: int) -> Words:
        """Learns the most frequent words, at most `limit`, that occur at least `min_count` times."""
        counts = Counter(word for text in texts for word in split(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([word for word in ranked[:limit] if counts[word] >= min_count])

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.words) + RESERVED

    def unread(self, text: str, length: int) -> str:
        """Returns a message about the words of a text beyond `length` and those outside the vocabulary, or ""."""
        words = split(text)
        kept = words[: length - 1]
        unknown = [word for word in dict.fromkeys(kept) if word not in self._ids]
        problems = []
        if len(words) > len(kept):
            problems.append(f"only the first {len(kept)} of its {len(words)} words are read")
        if unknown:
            shown = ", ".join(f"'{word}'" for word in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            problems.append(f"{shown} {'was' if len(unknown) == 1 else 'were'} not learned")
        return "; ".join(problems)

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encodes B texts as int32 (B, length): `START`, then the words, truncated or padded with `PAD`."""
        ids = np.full((len(texts), length), PAD, np.int32)  # (B, L)
        ids[:, 0] = START
        for row, text in zip(ids, texts, strict=True):
            found = [self._ids.get(word, UNKNOWN) for word in split(text)[: length - 1]]
            row[1 : 1 + len(found)] = found
        return ids
