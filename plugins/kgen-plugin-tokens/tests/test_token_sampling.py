"""Sampling tokens from logits."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.sampling import filter_logits, guide, log_probability, sample_tokens
from scipy.special import log_softmax, softmax

pytestmark = pytest.mark.backends

LOGITS = np.array([2.0, 0.0, 1.0, -1.0, 1.5], np.float32)
GRID = ((np.arange(20_000) + 0.5) / 20_000).astype("float32")


def samples(**options: float) -> np.ndarray:
    logits = ops.convert_to_tensor(np.tile(LOGITS, (len(GRID), 1)))
    return np.asarray(ops.convert_to_numpy(sample_tokens(logits, ops.convert_to_tensor(GRID), **options)))  # type: ignore[arg-type]


def test_frequencies_of_tokens_are_their_probabilities() -> None:
    for temperature in (0.5, 1.0, 2.0):
        frequencies = np.bincount(samples(temperature=temperature), minlength=5) / len(GRID)
        np.testing.assert_allclose(frequencies, softmax(LOGITS / temperature), atol=2e-4)


def test_top_k_and_top_p_keep_the_most_probable() -> None:
    assert set(samples(top_k=2)) == {0, 4}
    assert set(samples(top_k=5)) == set(samples(top_k=9)) == set(range(5))
    probabilities = softmax(LOGITS)  # 0.45, 0.06, 0.17, 0.02, 0.28 about
    for top_p in (0.1, 0.44, 0.5, 0.74, 0.91, 0.975, 1.0):
        falling = np.argsort(-probabilities)
        before = np.cumsum(probabilities[falling]) - probabilities[falling]
        kept = set(falling[before < top_p])
        assert set(samples(top_p=top_p)) == kept, top_p
    kept = filter_logits(ops.convert_to_tensor(LOGITS[None]), top_k=3, top_p=0.6)
    assert (ops.convert_to_numpy(kept)[0] > -1e8).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24])
def test_impossible_tokens_are_never_sampled(number: float) -> None:
    logits = np.full((3, 1000), -1e9, np.float32)
    logits[0, 0] = logits[1, 500] = logits[2, -1] = 0.0
    numbers = ops.convert_to_tensor(np.full(3, number, np.float32))
    assert ops.convert_to_numpy(sample_tokens(ops.convert_to_tensor(logits), numbers)).tolist() == [0, 500, 999]
    logits = np.random.default_rng(0).standard_normal((1, 5000)).astype("float32")
    numbers = ops.convert_to_tensor(np.full(1, number, np.float32))
    token = int(ops.convert_to_numpy(sample_tokens(ops.convert_to_tensor(logits), numbers, top_k=10))[0])
    assert token in np.argsort(-logits[0])[:10]


def test_guidance_moves_away_from_the_null_logits() -> None:
    logits, null = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    for weight, expected in ((0.0, null), (1.0, logits), (3.0, 3 * logits - 2 * null)):
        np.testing.assert_allclose(guide(logits, null, weight), expected, rtol=1e-5, atol=1e-5)


def test_log_probability_is_that_of_the_softmax() -> None:
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((2, 3, 5)).astype("float32"), rng.integers(0, 5, (2, 3)).astype(np.int32)
    expected = np.take_along_axis(log_softmax(logits, axis=-1), tokens[..., None], -1)[..., 0]
    found = log_probability(ops.convert_to_tensor(logits), ops.convert_to_tensor(tokens))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-6)
