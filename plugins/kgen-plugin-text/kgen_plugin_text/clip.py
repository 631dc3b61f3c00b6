"""CLIP's byte-pair encoding of lowercase text (Radford et al. 2021, section 2.4), from a model's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

START, END = "<|startoftext|>", "<|endoftext|>"

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

FILE = "tokenizer.json"
"""Hugging Face's description of a whole tokenizer. KerasHub writes another file of that name, without "model"."""

VOCABULARIES, MERGES = ("vocab.json", "vocabulary.json"), "merges.txt"
"""The files of the original model, and their names in KerasHub."""


def read_clip_tokenizer(folder: Path) -> Tokenizer | None:
    """Reads the tokenizer of a folder; None if the folder has none.

    Raises:
        Exception: a file is damaged. (The package `tokenizers` raises bare `Exception`.)
    """
    file, merges = folder / FILE, folder / MERGES
    if file.is_file() and "model" in json.loads(file.read_text(encoding="utf-8")):
        return Tokenizer.from_file(str(file))
    vocabulary = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    if vocabulary is None or not merges.is_file():
        return None
    ids = dict(json.loads(vocabulary.read_text(encoding="utf-8")))
    return clip_tokenizer(ids, merges.read_text(encoding="utf-8").splitlines())


def clip_tokenizer(vocabulary: dict[str, int], merges: Sequence[str]) -> Tokenizer:
    """Makes the tokenizer, which adds the start and end token.

    Args:
        vocabulary: The ids of all tokens.
        merges: The pairs that are merged, such as "he art</w>", the most frequent first.
    """
    pairs = [tuple(line.split()) for line in merges if line.strip() and not line.startswith("#version")]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, end_of_word_suffix="</w>", unk_token=END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    marks = [(mark, vocabulary[mark]) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=marks)
    return tokenizer
