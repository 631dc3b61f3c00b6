"""Bags of words, classes, and the encoder without text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keras import ops
from kgen_plugin_text.bag import BagOfWords
from kgen_plugin_text.label import CaptionClass, ClassLabel
from kgen_plugin_text.unconditional import Unconditional
from kgen_plugin_text.words import PAD, START, UNKNOWN, Words, split

import kgen
from kgen import ConfigError, DataError, RunError

CAPTIONS = ["red heart", "red circle", "blue heart"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red  HEART!", ["red", "heart", "!"]),
        ("it\u2019s 12 o'clock", ["it", "\u2019", "s", "12", "o", "'", "clock"]),
        ("\u7ea2\u8272\u7684\u5fc3 red", ["\u7ea2", "\u8272", "\u7684", "\u5fc3", "red"]),
        ("gru\u0308n \u00c4pfel", ["gr\u00fcn", "\u00e4pfel"]),
        ("\U0001f34f\U0001f34e", ["\U0001f34f", "\U0001f34e"]),
        ("\ud800", ["?"]),
        (" \n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_frequent_words_come_first_and_rare_ones_are_unknown() -> None:
    words = Words.learn(["b a", "a c", "a b", "d"], limit=3, min_count=2)
    assert words.words == ("a", "b")
    assert words(["a d b zebra"], 7).tolist() == [[START, 3, UNKNOWN, 4, UNKNOWN, PAD, PAD]]
    assert words(["a " * 99], 3).tolist() == [[START, 3, 3]]
    assert Words.learn(["b a", "a b c"], limit=1, min_count=1).words == ("a",)


@pytest.mark.backends
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_bag_pools_its_vectors(pooling: str) -> None:
    encoder = BagOfWords(dim=4, length=5, pooling=pooling)
    encoder.adapt(CAPTIONS)
    made = encoder(encoder.tokenize(["red red circle", "circle red red", ""]))
    table = ops.convert_to_numpy(encoder.table)
    ids = {word: 3 + i for i, word in enumerate(encoder.words.words)}
    rows = table[[START, ids["red"], ids["red"], ids["circle"]]]
    pooled = ops.convert_to_numpy(made["pooled"])
    np.testing.assert_allclose(pooled[0], rows.sum(0) / (4 if pooling == "mean" else 1), rtol=1e-5)
    np.testing.assert_allclose(pooled[1], pooled[0], rtol=1e-5)
    np.testing.assert_allclose(pooled[2], table[START], rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(made["sequence"])[0, :4], rows, rtol=1e-6)
    assert (ops.convert_to_numpy(made["sequence"])[0, 4:] == 0).all()


def test_unknown_words_are_ignored() -> None:
    encoder = BagOfWords(dim=4, length=5, pooling="sum")
    encoder.adapt(CAPTIONS)
    pooled = ops.convert_to_numpy(encoder(encoder.tokenize(["red zebra", "red"]))["pooled"])
    np.testing.assert_allclose(pooled[0], pooled[1])
    assert np.abs(pooled).min() > 0


def test_classes_have_rows_of_their_own() -> None:
    encoder = CaptionClass(dim=4)
    encoder.adapt([*CAPTIONS, *CAPTIONS, ""])
    assert encoder.tokenize(["", " blue heart", "red circle", "red heart"])["class"].tolist() == [0, 1, 2, 3]
    made = encoder(encoder.tokenize(["red heart", ""]))
    table = ops.convert_to_numpy(encoder.table)
    assert table.shape == (4, 4)
    np.testing.assert_allclose(ops.convert_to_numpy(made["pooled"]), table[[3, 0]])
    np.testing.assert_allclose(ops.convert_to_numpy(made["sequence"])[:, 0], table[[3, 0]])


def test_configured_classes() -> None:
    encoder = CaptionClass(dim=4, classes=("circle", "apple", "heart"))
    encoder.adapt(["apple"])
    assert encoder.tokenize(["", "circle", "apple", "heart"])["class"].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"'hart' is not one of the 3 classes.*did you mean 'heart'"):
        encoder.adapt(["apple", "hart"])
    for wrong in ((), ("a", "a "), ("a", " ")):
        with pytest.raises(ValueError, match="different, non-empty texts"):
            CaptionClass(classes=wrong)


def test_unknown_class_is_refused_with_near_names() -> None:
    encoder = CaptionClass(dim=4)
    encoder.adapt(CAPTIONS)
    with pytest.raises(ConfigError, match=r"'red hart' is not one of the 3 classes.*'red heart'"):
        encoder.tokenize(["", "red hart"])
    with pytest.raises(ConfigError, match=r"'.' is not one of the 3 classes.*'blue heart', 'red circle', 'red heart'"):
        encoder.tokenize(["\u4e2d"])


def test_labels_are_texts_or_numbers() -> None:
    encoder = ClassLabel(dim=4)
    assert encoder.fields == ("label",) and CaptionClass(dim=4).fields == ("caption",)
    encoder.adapt([7, "10", 7, "9"])
    assert encoder.tokenize(["", 10, "7", 9])["class"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"'8' is not one of the 3 classes of encoder 'label'"):
        encoder.tokenize([8])
    for wrong in (True, 1.5, None, ["7"]):
        with pytest.raises(ConfigError, match="a label is a text or a whole number"):
            encoder.tokenize([wrong])
    with pytest.raises(DataError, match="there are no labels"):
        encoder.adapt([])


def test_none_ignores_the_text() -> None:
    encoder = Unconditional()
    encoder.adapt([])
    made = encoder(encoder.tokenize(["", "red heart"]))
    assert not encoder.weights
    assert encoder.condition_space == kgen.ConditionSpace(1, 1)
    assert (ops.convert_to_numpy(made["sequence"]) == np.zeros((2, 1, 1))).all()
    assert (ops.convert_to_numpy(made["mask"]) == np.ones((2, 1))).all()


@pytest.mark.parametrize("encoder_class", [BagOfWords, CaptionClass])
def test_mistakes_are_named(encoder_class: type[kgen.Encoder], tmp_path: Path) -> None:
    encoder = encoder_class()
    with pytest.raises(DataError, match="no captions"):
        encoder.adapt([])
    with pytest.raises(ConfigError, match=r"adapt\(captions\)"):
        encoder.tokenize(["red"])
    with pytest.raises(RunError, match="cannot be read"):
        encoder.load_assets(tmp_path)
    for content in ("", "[", "5", "null", '{"a": 1}', '["red", 5]', "[" * 3000, "\xff", '["\\ud800"]'):
        for name in ("words.json", "classes.json"):
            (tmp_path / name).write_text(content, encoding="latin-1")
        with pytest.raises(RunError, match=r"(words|classes)\.json is damaged: "):
            encoder.load_assets(tmp_path)
