"""Reads the tokenizer of a model from its folder. Tokenizers run on the host, without TensorFlow.

A folder may hold Hugging Face's ``tokenizer.json``, which describes the whole tokenizer, or the vocabulary files of the
original models or of KerasHub, from which an equal tokenizer is built.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from kgen_plugin_text.clip import read_clip_tokenizer
from kgen_plugin_text.pieces import Pieces, TextTokenizer
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from kgen import ConfigError, PluginError
from kgen_plugin_keras_hub.presets import Source

Kind = Literal["Bert", "CLIP", "T5"]


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


def read_tokenizer(source: Source, kind: Kind, length: int, name: str = "tokenizer") -> TextTokenizer:
    """Finds a model's tokenizer.

    Args:
        source: Folder of the model (the tokenizer may be beside it, in "tokenizer"), or a preset of KerasHub.
        kind: Kind of model.
        length: Number of tokens per text.
        name: KerasHub's name of the tokenizer, if the model has several, such as "clip_l_tokenizer".

    Raises:
        ConfigError: There is no tokenizer, or it cannot be read.
        PluginError: The tokenizer needs the package sentencepiece, which is not installed.
    """
    if isinstance(source, str):
        with tempfile.TemporaryDirectory() as folder:
            _export(source, kind, folder)
            return read_tokenizer(Path(folder), kind, length)
    for folder in (source, source / "assets" / name, source.parent / "tokenizer"):
        try:
            settings = _settings(source / f"{name}.json", folder)
            if (tokenizer := _read_folder(folder, kind, length, settings)) is not None:
                return tokenizer
        except PluginError:
            raise
        except Exception as error:  # the packages raise bare Exception
            raise ConfigError(f"preset '{source}': the tokenizer in {folder} cannot be read: {error}") from error
    raise ConfigError(f"preset '{source}' has no {name}: it needs tokenizer.json, or {WANTED[kind]}")


def pads_with_end(source: Path, name: str) -> bool:
    """Whether a text is padded with its end token, and not with 0, as KerasHub's options of CLIP's tokenizer say."""
    return bool(_json(source / f"{name}.json").get("config", {}).get("pad_with_end_token", False))


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


def _settings(file: Path, folder: Path) -> dict[str, Any]:
    """Returns KerasHub's options of a tokenizer, or Hugging Face's, under KerasHub's names."""
    hub = _json(file).get("config", {})
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
    tokenizer = read_clip_tokenizer(folder)
    return None if tokenizer is None else Pieces(tokenizer, length)


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
