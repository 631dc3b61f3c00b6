"""The conformance kit, and conditions that are known."""

from __future__ import annotations

import numpy as np
from keras import ops
from kgen.testing import EncoderConformance

from kgen_plugin_yourname.hashed import HashedWords


class TestHashedWords(EncoderConformance):
    def build(self) -> HashedWords:
        return HashedWords(dim=8, length=6, rows=97)


def test_the_pooled_condition_is_the_mean_of_the_vectors() -> None:
    encoder = HashedWords(dim=4, length=5)
    condition = {name: ops.convert_to_numpy(array) for name, array in encoder(encoder.tokenize(["Red heart"])).items()}
    (table,) = encoder.get_weights()
    rows = [1, encoder.row("red"), encoder.row("heart")]
    np.testing.assert_allclose(condition["sequence"][0, :3], table[rows], rtol=1e-6)
    np.testing.assert_allclose(condition["pooled"][0], table[rows].mean(axis=0), rtol=1e-5, atol=1e-7)
    assert condition["mask"].tolist() == [[1, 1, 1, 0, 0]] and not condition["sequence"][0, 3:].any()


def test_words_beyond_the_length_are_reported() -> None:
    encoder = HashedWords(length=3)
    assert encoder.unread("red heart") == ""
    assert encoder.unread("a red heart") == "only the first 2 of its 3 words are read"
