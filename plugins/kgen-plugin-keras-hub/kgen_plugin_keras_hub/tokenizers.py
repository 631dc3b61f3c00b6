"""Reads the tokenizer of a model from its folder. Tokenizers run on the host, without TensorFlow.

A folder may hold Hugging Face's ``tokenizer.json``, which describes the whole tokenizer, or the vocabulary files of the
original models or of KerasHub, from which an equal tokenizer is built.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.implementations import BertWordPieceTokenizer

from kgen import ConfigError, PluginError
from kgen_plugin_keras_hub.presets import Source

Kind = Literal["Bert", "CLIP", "T5"]


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


class Sentences(TextTokenizer):
    """A SentencePiece model, as in T5, with an end token."""

    def __init__(self, proto: bytes, length: int) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise PluginError(
                "this preset has no tokenizer.json, only a SentencePiece model, which needs the package sentencepiece: "
                "pip install sentencepiece"
            ) from error
        self.processor = SentencePieceProcessor(model_proto=proto)
        self.length = length

    @property
    def size(self) -> int:
        return int(self.processor.vocab_size())

    def ids(self, text: str) -> list[int]:
        return [*self.processor.encode(text)[: self.length - 1], self.processor.eos_id()]

    def counts(self, text: str) -> tuple[int, int]:
        found = self.processor.encode(text)
        return len(found) + 1, found[: self.length - 1].count(self.processor.unk_id())


def read_tokenizer(source: Source, kind: Kind, length: int) -> TextTokenizer:
    """Finds a model's tokenizer.

    Args:
        source: Folder of the model (the tokenizer may be beside it, in "tokenizer"), or a preset of KerasHub.
        kind: Kind of model.
        length: Number of tokens per text.

    Raises:
        ConfigError: There is no tokenizer, or it cannot be read.
        PluginError: The tokenizer needs the package sentencepiece, which is not installed.
    """
    if isinstance(source, str):
        with tempfile.TemporaryDirectory() as folder:
            _export(source, kind, folder)
            return read_tokenizer(Path(folder), kind, length)
    for folder in (source, source / "assets" / "tokenizer", source.parent / "tokenizer"):
        try:
            if (tokenizer := _read_folder(folder, kind, length, _settings(source, folder))) is not None:
                return tokenizer
        except PluginError:
            raise
        except Exception as error:  # the packages raise bare Exception
            raise ConfigError(f"preset '{source}': the tokenizer in {folder} cannot be read: {error}") from error
    raise ConfigError(f"preset '{source}' has no tokenizer: it needs tokenizer.json, or {WANTED[kind]}")


def _export(name: str, kind: Kind, folder: str) -> None:
    """Lets KerasHub write the vocabulary files of one of its presets."""
    import keras_hub

    try:
        getattr(keras_hub.tokenizers, f"{kind}Tokenizer").from_preset(name).save_to_preset(folder)
    except Exception as error:  # no network, no permission, a package missing
        raise ConfigError(
            f"the tokenizer of preset '{name}' cannot be loaded: {type(error).__name__}: {error}"
        ) from error


WANTED = {"Bert": "vocab.txt", "CLIP": "vocab.json and merges.txt", "T5": "spiece.model"}


def _settings(source: Path, folder: Path) -> dict[str, Any]:
    """Returns KerasHub's options of a tokenizer, or Hugging Face's, under KerasHub's names."""
    hub = _json(source / "tokenizer.json").get("config", {})
    face = _json(folder / "tokenizer_config.json")
    lowercase = face.get("do_lower_case", True)
    accents = face.get("strip_accents")
    return {"lowercase": lowercase, "strip_accents": lowercase if accents is None else accents, **hub}


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _read_folder(folder: Path, kind: Kind, length: int, settings: dict[str, Any]) -> TextTokenizer | None:
    if "model" in _json(folder / "tokenizer.json"):  # KerasHub writes another file of that name
        return Pieces(Tokenizer.from_file(str(folder / "tokenizer.json")), length)
    return READERS[kind](folder, length, settings)


def _read_word_pieces(folder: Path, length: int, settings: dict[str, Any]) -> TextTokenizer | None:
    file = _first(folder, "vocab.txt", "vocabulary.txt")
    if file is None:
        return None
    options = {key: bool(settings[key]) for key in ("lowercase", "strip_accents")}
    return Pieces(BertWordPieceTokenizer(str(file), **options)._tokenizer, length)


def _read_byte_pairs(folder: Path, length: int, settings: dict[str, Any]) -> TextTokenizer | None:
    vocabulary, merges = _first(folder, "vocab.json", "vocabulary.json"), _first(folder, "merges.txt")
    if vocabulary is None or merges is None:
        return None
    return Pieces(clip_tokenizer(_json(vocabulary), merges.read_text(encoding="utf-8").splitlines()), length)


def _read_sentence_pieces(folder: Path, length: int, settings: dict[str, Any]) -> TextTokenizer | None:
    file = _first(folder, "spiece.model", "vocabulary.spm")
    return None if file is None else Sentences(file.read_bytes(), length)


READERS: dict[Kind, Callable[[Path, int, dict[str, Any]], TextTokenizer | None]] = {
    "Bert": _read_word_pieces,
    "CLIP": _read_byte_pairs,
    "T5": _read_sentence_pieces,
}


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokenizer(vocabulary: dict[str, int], merges: Sequence[str]) -> Tokenizer:
    """Returns CLIP's byte-pair encoding of lowercase text (Radford et al. 2021), with start and end token."""
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
