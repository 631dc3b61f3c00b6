"""Vocabulary files of the original models and of KerasHub give the same tokens as their own libraries."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras_hub
import numpy as np
import pytest
from kgen_plugin_keras_hub.tokenizers import Kind, read_tokenizer
from kgen_plugin_text.pieces import TextTokenizer
from tokenizers import Tokenizer, models

from kgen import ConfigError

TEXTS = [
    "a red heart",
    "",
    "   RED  hearts,&books's!",
    "don't you'll we've 42",
    "gr\u00fcne \u00c4pfel e\u0301",
    "\u4e2d\u6587\U0001f34f \x00\n",
    "\ud83d surrogate",
]
Pairs = tuple[dict[str, int], list[str]]


def ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    tokens = tokenizer([text])
    return [int(i) for i in tokens["token_ids"][0, : tokens["padding_mask"].sum()]]


def plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


@pytest.mark.parametrize("text", TEXTS[:4])
@pytest.mark.parametrize("kind", ["Bert", "CLIP", "T5"])
def test_reads_files_of_keras_hub(kind: Kind, text: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind.lower()}_folder")
    theirs = getattr(keras_hub.tokenizers, f"{kind}Tokenizer").from_preset(str(folder))
    inner = [int(i) for i in np.asarray(theirs(text)).reshape(-1)]
    begin = {"Bert": ["[CLS]"], "CLIP": ["<|startoftext|>"], "T5": []}[kind]
    end = {"Bert": "[SEP]", "CLIP": "<|endoftext|>", "T5": "</s>"}[kind]
    expected = [*map(theirs.token_to_id, begin), *inner, theirs.token_to_id(end)]
    tokenizer = read_tokenizer(folder, kind, 64)
    assert ids(tokenizer, text) == expected
    assert tokenizer.size == theirs.vocabulary_size()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("lowercase", [True, False])
def test_reads_berts_vocabulary(lowercase: bool, text: str, word_pieces: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(word_pieces))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    vocabulary = {word: number for number, word in enumerate(word_pieces)}
    theirs = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=lowercase)
    assert ids(read_tokenizer(tmp_path, "Bert", 64), text) == theirs(plain(text))["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_reads_clips_vocabulary(text: str, byte_pairs: Pairs, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary, merges = byte_pairs
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair.split()) for pair in merges])
    ours = read_tokenizer(tmp_path, "CLIP", 64)
    assert ids(ours, text) == theirs(plain(text))["input_ids"]
    assert vocabulary["heart</w>"] in ours.ids("a red heart")


@pytest.mark.parametrize("kind", ["Bert", "CLIP", "T5"])
def test_truncates_and_fills(kind: Kind, request: pytest.FixtureRequest) -> None:
    tokenizer = read_tokenizer(request.getfixturevalue(f"{kind.lower()}_folder"), kind, 6)
    tokens = tokenizer(["red " * 1000, "", "a", "\ud800"])
    assert {name: (array.shape, array.dtype) for name, array in tokens.items()} == dict.fromkeys(
        ("token_ids", "padding_mask"), ((4, 6), np.dtype(np.int32))
    )
    end = tokenizer.ids("")[-1]
    for ids, mask in zip(tokens["token_ids"], tokens["padding_mask"], strict=True):
        count = mask.sum()
        assert mask.tolist() == [1] * count + [0] * (6 - count)
        assert ids[count - 1] == end
        assert (ids[count:] == 0).all()
    assert tokens["padding_mask"][0].all()


@pytest.mark.parametrize("kind", ["Bert", "CLIP", "T5"])
def test_pickles_and_serves_threads(kind: Kind, request: pytest.FixtureRequest) -> None:
    tokenizer = read_tokenizer(request.getfixturevalue(f"{kind.lower()}_folder"), kind, 16)
    again = pickle.loads(pickle.dumps(tokenizer))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(again.ids, TEXTS[:4] * 20))
    assert found == [tokenizer.ids(text) for text in TEXTS[:4]] * 20


def test_prefers_hugging_faces_file(bert_folder: Path, tmp_path: Path, word_pieces: list[str]) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(word_pieces))
    Tokenizer(models.WordLevel({"red": 7, "?": 3}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path, "Bert", 8).ids("red") == [7]
    assert read_tokenizer(bert_folder, "Bert", 8).ids("red")[1] == word_pieces.index("red")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json, or vocab\.json and merges\.txt"):
        read_tokenizer(tmp_path, "CLIP", 8)
    (tmp_path / "tokenizer.json").write_text("[")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokenizer(tmp_path, "CLIP", 8)


@pytest.mark.parametrize("kind", ["Bert", "CLIP", "T5"])
def test_counts_truncated_and_unknown_words(kind: Kind, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{kind.lower()}_folder")
    short, long = (read_tokenizer(folder, kind, length) for length in (6, 64))
    text = "a red heart a red heart a red heart"
    count, unknown = short.counts(text)
    assert count == len(long.ids(text)) > 6 and unknown == 0
    assert long.counts("a red heart") == (len(long.ids("a red heart")), 0)
    assert long.counts("\u4e2d")[1] == {"Bert": 1, "T5": 1}.get(kind, long.counts("\u4e2d")[1])
