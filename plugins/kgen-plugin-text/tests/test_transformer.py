"""The vocabulary of byte pairs, and the transformer."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_text.bpe import PAD, RESERVED, SMALLEST, START, BytePairs
from kgen_plugin_text.transformer import TransformerText, masked_mean

from kgen import ConfigError, DataError, RunError

CAPTIONS = ["red heart", "blue heart", "red circle", "blue circle", "green book", "green heart"] * 2
STRANGE = [
    "",
    " \t\n",
    "\x00\x01\x7f",
    "\ud83d lone surrogate \udfff",
    "e\u0301te\u0301",
    "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f",
    "<pad> <start> [CLS] </s>",
    "x" * 100_000,
    "\U0010ffff\uffff",
]


def learned(vocabulary: int = 300) -> BytePairs:
    return BytePairs.learn(CAPTIONS, vocabulary, lowercase=True)


def decode(pairs: BytePairs, ids: np.ndarray) -> str:
    """Decodes ids with a second implementation of GPT-2's table of byte characters."""
    signs = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in signs]
    byte_of = {chr(s): s for s in signs} | {chr(256 + i): byte for i, byte in enumerate(others)}
    pieces = [pairs.tokenizer.id_to_token(int(i) - RESERVED) for i in ids if i >= RESERVED]
    return bytes(byte_of[sign] for piece in pieces for sign in piece).decode("utf-8").removeprefix(" ")


@pytest.mark.parametrize("text", [*CAPTIONS[:6], *STRANGE[2:8]])
def test_byte_tokens_are_lossless(text: str) -> None:
    pairs = learned()
    ids = pairs([text], 200)[0]
    assert ids[0] == START
    expected = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()).strip().lower()
    assert decode(pairs, ids) == expected


def test_common_words_become_one_token() -> None:
    pairs = learned()
    assert (pairs(["red heart"], 8)[0] != PAD).sum() == 3  # start, " red", " heart"
    assert (BytePairs.learn(CAPTIONS, SMALLEST, True)(["red heart"], 32)[0] != PAD).sum() == 1 + len(" red heart")


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_has_tokens_of_the_fixed_length(text: str) -> None:
    pairs = learned()
    ids = pairs([text], 12)
    assert ids.shape == (1, 12)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < pairs.size
    assert ((ids[0] == PAD) <= (np.cumsum(ids[0] == PAD) > 0)).all()  # padding comes last


def test_marks_cannot_be_written_in_a_text() -> None:
    ids = learned()(["<pad><start>"], 32)[0]
    assert (ids == START).sum() == 1
    assert (ids[1 : 1 + len("<pad><start>")] >= RESERVED).all()


def test_case_matters_only_with_the_option() -> None:
    assert (learned()(["RED Heart"], 8) == learned()(["red heart"], 8)).all()
    exact = BytePairs.learn(["Red", "Red", "red", "red"], 300, lowercase=False)
    assert (exact(["Red"], 8) != exact(["red"], 8)).any()


def test_vocabulary_is_bounded_and_shapes_the_weights() -> None:
    encoder = TransformerText(vocabulary=265, length=8, dim=8, depth=1, heads=2)
    encoder.adapt(CAPTIONS)
    encoder(encoder.tokenize([""]))
    assert tuple(encoder.tokens.shape) == (265, 8)
    few = TransformerText(vocabulary=4096, length=8, dim=8, depth=1, heads=2)
    few.adapt(["ab", "ab"])
    few(few.tokenize([""]))
    assert SMALLEST < few.tokens.shape[0] <= SMALLEST + 3  # such as " a" and " ab"


def test_learning_is_the_same_in_another_process() -> None:
    code = (
        "from kgen_plugin_text.bpe import BytePairs\nimport sys, json\n"
        "print(BytePairs.learn(json.loads(sys.argv[1]), 300, True).tokenizer.to_str(), end='')"
    )
    command = [sys.executable, "-c", code, json.dumps(CAPTIONS)]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert other == learned().tokenizer.to_str()


def test_pickles() -> None:
    pairs = pickle.loads(pickle.dumps(learned()))
    assert (pairs(CAPTIONS, 8) == learned()(CAPTIONS, 8)).all()


def test_padding_is_never_read() -> None:
    """The condition of a text does not depend on its padding."""
    encoder = TransformerText(vocabulary=300, length=8, dim=16, depth=2, heads=2)
    encoder.adapt(CAPTIONS)
    encoder(encoder.tokenize([""]))
    encoder.positions.assign(np.random.default_rng(0).normal(size=(8, 16)))
    before = encoder(encoder.tokenize(["red heart"]))
    changed = ops.convert_to_numpy(encoder.positions).copy()
    changed[3:] = np.random.default_rng(1).normal(size=(5, 16))  # "red heart" takes three positions
    encoder.positions.assign(changed)
    after = encoder(encoder.tokenize(["red heart"]))
    for name, part in (("pooled", slice(None)), ("sequence", slice(0, 3))):
        np.testing.assert_allclose(
            ops.convert_to_numpy(after[name])[0, part], ops.convert_to_numpy(before[name])[0, part], atol=1e-6
        )
    assert ops.convert_to_numpy(before["mask"])[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_order_of_words_matters() -> None:
    encoder = TransformerText(vocabulary=300, length=8, dim=16, depth=1, heads=2)
    encoder.adapt(CAPTIONS)
    pooled = ops.convert_to_numpy(
        encoder(encoder.tokenize(["red heart blue circle", "blue heart red circle"]))["pooled"]
    )
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-4


@pytest.mark.backends
def test_masked_mean() -> None:
    x = np.arange(12, dtype="float32").reshape(1, 4, 3)
    mean = masked_mean(x, np.array([[1, 1, 0, 0]], "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(mean)[0], x[0, :2].mean(0))


def test_dropout_only_in_training() -> None:
    encoder = TransformerText(vocabulary=300, length=8, dim=16, depth=1, heads=2, dropout=0.5)
    encoder.adapt(CAPTIONS)
    tokens = encoder.tokenize(CAPTIONS)
    still = [ops.convert_to_numpy(encoder(tokens)["pooled"]) for _ in range(2)]
    noisy = [ops.convert_to_numpy(encoder(tokens, training=True)["pooled"]) for _ in range(2)]
    assert (still[0] == still[1]).all()
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3


def test_learns_to_distinguish_captions() -> None:
    """After a short training with a linear layer, the conditions of captions tell their colors apart."""
    encoder = TransformerText(vocabulary=300, length=8, dim=16, depth=1, heads=2)
    encoder.adapt(CAPTIONS)
    colors = np.array([["red", "blue", "green"].index(c.split()[0]) for c in CAPTIONS])
    inputs = {"ids": keras.Input((8,), dtype="int32", name="ids")}
    encoder(encoder.tokenize([""]))
    model = keras.Model(inputs, keras.layers.Dense(3)(encoder(inputs)["pooled"]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    model.fit(encoder.tokenize(CAPTIONS), colors, epochs=30, batch_size=12, verbose=0)
    assert (model.predict(encoder.tokenize(CAPTIONS), verbose=0).argmax(1) == colors).all()


def test_mistakes_are_named(tmp_path: Path) -> None:
    encoder = TransformerText(length=8, dim=8, depth=1, heads=2)
    with pytest.raises(DataError, match="no captions"):
        encoder.adapt([])
    with pytest.raises(ConfigError, match=r"adapt\(captions\)"):
        encoder.tokenize(["red"])
    with pytest.raises(RunError, match=r"tokenizer\.json"):
        encoder.load_assets(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RunError, match=r"tokenizer\.json"):
        encoder.load_assets(tmp_path)
    with pytest.raises(ValueError, match="multiple of heads 3"):
        TransformerText(dim=16, heads=3)
