"""The numbers of masked tokens, sampling in a few passes, and the likelihood."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.bidirectional import MaskedModel, any_order_bound, masked_loss
from kgen_plugin_tokens.masking import masked_counts, ranks
from kgen_plugin_tokens.nar import random_mask
from kgen_plugin_tokens.sampling import sample_tokens
from kgen_plugin_tokens.transformer import Transformer
from scipy.special import log_softmax

from kgen import ConditionSpace, SeedGenerator
from kgen.random import uniform
from kgen.testing.execution import perturb
from kgen.testing.inputs import random_conditions

pytestmark = pytest.mark.portable

CONDITIONS = ConditionSpace(3, 6)
COUNTS = {
    8: [256, 251, 236, 212, 181, 142, 97, 49],
    18: [256, 255, 252, 247, 240, 232, 221, 209, 196, 181, 164, 146, 128, 108, 87, 66, 44, 22],
}
"""MaskGIT's cosine schedule of 256 tokens: floor(256 cos(pi t / 2T)) before step t of T (Chang et al. 2022, 3.2)."""
LAST_ALONE = {
    8: [256, 249, 230, 200, 159, 111, 56, 1],
    18: [256, 254, 251, 246, 238, 229, 217, 204, 189, 172, 154, 134, 114, 92, 70, 47, 23, 1],
}
"""The same with t / (T - 1)."""

PAIRS = {2: 0.496, 3: 0.638, 4: 0.706, 8: 0.828, 16: 0.912}
"""The share of correct pairs by the number of passes. The data are 32 pairs of equal tokens out of 8. An ideal model
samples them in the steps of the paper."""


def texts(count: int, seed: int = 0) -> dict[str, Any]:
    one = random_conditions(CONDITIONS, 1, seed)
    return {name: ops.convert_to_tensor(np.repeat(value, count, axis=0)) for name, value in one.items()}


def model(shape: tuple[int, ...] = (4, 4), vocabulary: int = 9) -> MaskedModel:
    keras.utils.set_random_seed(0)
    made = MaskedModel(Transformer(width=16, depth=2, heads=2), shape, vocabulary)
    made.build((None, CONDITIONS.length, CONDITIONS.dim), (None, CONDITIONS.pooled_dim))
    perturb(made)
    return made


def test_counts_of_maskgit() -> None:
    for steps in (8, 18):
        assert masked_counts("cosine", 256, steps).tolist() == COUNTS[steps]
        assert masked_counts("cosine", 256, steps, last_token_alone=True).tolist() == LAST_ALONE[steps]
    assert masked_counts("linear", 8, 4).tolist() == [8, 6, 4, 2]
    assert masked_counts("linear", 8, 5, last_token_alone=True).tolist() == [8, 6, 4, 2, 1]
    with pytest.raises(ValueError, match="9 are more than the 8 tokens"):
        masked_counts("cosine", 8, 9)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "arccos"])
@pytest.mark.parametrize("last_token_alone", [False, True])
def test_every_step_fills_in_a_token(schedule: Any, last_token_alone: bool) -> None:
    for tokens, steps in itertools.product((1, 2, 7, 64), (1, 2, 6, 7, 12, 63, 64)):
        if steps <= tokens:
            counts = masked_counts(schedule, tokens, steps, last_token_alone)
            assert counts[0] == tokens and counts[-1] >= 1 and (np.diff(counts) <= -1).all()


@pytest.mark.backends
def test_ranks() -> None:
    found = ranks(ops.convert_to_tensor([[3.0, -1.0, 2.0], [0.0, 1.0, -5.0]]))
    assert ops.convert_to_numpy(found).tolist() == [[2, 0, 1], [1, 2, 0]]


@pytest.mark.backends
@pytest.mark.parametrize("allowed", [None, np.arange(64) % 4 != 0])
def test_random_masks_have_the_sizes_of_the_schedule(allowed: np.ndarray | None) -> None:
    mask = random_mask(ops.zeros((4000, 64), "int32"), "cosine", SeedGenerator(0), allowed)
    found = ops.convert_to_numpy(mask)
    most = 64 if allowed is None else 48
    sizes = found.sum(axis=1)
    assert sizes.min() >= 1 and sizes.max() <= most
    assert sizes.mean() / most == pytest.approx(2 / np.pi, abs=0.02)  # the mean of cos over a quarter turn
    places = found.mean(axis=0)
    assert allowed is None or (places[~allowed] == 0).all()
    wanted = sizes.mean() / most
    np.testing.assert_allclose(places if allowed is None else places[allowed], wanted, atol=0.05)


def test_the_loss_counts_only_masked_tokens() -> None:
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((2, 5, 7)).astype("float32"), rng.integers(0, 7, (2, 5)).astype(np.int32)
    weight = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]], np.float32)

    def loss(logits: np.ndarray, **options: float) -> np.ndarray:
        given = (ops.convert_to_tensor(array) for array in (logits, tokens, weight))
        return np.asarray(ops.convert_to_numpy(masked_loss(*given, **options)))

    log_p = np.take_along_axis(log_softmax(logits, axis=-1), tokens[..., None], -1)[..., 0]
    expected = [-(log_p[0, 0] + log_p[0, 2]) / 2, -log_p[1, 4]]
    np.testing.assert_allclose(loss(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(
        loss(logits + (1 - weight[..., None]) * rng.random((2, 5, 7), np.float32)), expected, rtol=1e-5
    )
    torch = pytest.importorskip("torch")
    for row in (0, 1):
        there = weight[row] > 0
        peer = torch.nn.functional.cross_entropy(
            torch.tensor(logits[row, there]), torch.tensor(tokens[row, there]).long(), label_smoothing=0.1
        )
        assert loss(logits, smoothing=0.1)[row] == pytest.approx(float(peer), rel=1e-5)


class Spy(MaskedModel):
    """Records the tokens it is called with."""

    def call(self, tokens: Any, condition: Any, training: bool = False) -> Any:
        self.__dict__.setdefault("shown", []).append(tokens)
        return super().call(tokens, condition, training)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_tokens_that_stay_never_change(guidance: float) -> None:
    """In each step, the number of masked tokens is that of the schedule, and the other tokens are unchanged."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.disable_jit():
            _check_fill(guidance)
    else:
        _check_fill(guidance)


def _check_fill(guidance: float) -> None:
    keras.utils.set_random_seed(0)
    made = Spy(Transformer(width=16, depth=1, heads=2), (4, 4), 9)
    made.build((None, CONDITIONS.length, CONDITIONS.dim), (None, CONDITIONS.pooled_dim))
    perturb(made)
    counts = masked_counts("cosine", 12, 5)
    start = np.full((3, 16), 9, np.int32)
    start[:, ::4] = [1, 2, 3, 4]  # these tokens are given
    keys = ops.convert_to_tensor(np.arange(6, dtype=np.int32).reshape(3, 2))
    tokens, _ = made.fill(
        ops.convert_to_tensor(start), counts, keys, texts(3), texts(3, 1), guidance=guidance, randomness=4.0
    )
    seen = [ops.convert_to_numpy(shown)[:3] for shown in made.__dict__["shown"]] + [ops.convert_to_numpy(tokens)]
    assert [(shown == 9).sum(axis=1).tolist() for shown in seen] == [[n] * 3 for n in (*counts, 0)]
    for before, after in itertools.pairwise(seen):
        known = before != 9
        np.testing.assert_array_equal(after[known], before[known])


def test_one_step_samples_all_tokens_independently() -> None:
    made, keys = model(), ops.convert_to_tensor(np.arange(6, dtype=np.int32).reshape(3, 2))
    blank = ops.full((3, 16), 9, dtype="int32")
    tokens, certainty = made.fill(blank, masked_counts("cosine", 16, 1), keys, texts(3), texts(3, 1), randomness=4.0)
    logits = made(blank, texts(3))
    expected = sample_tokens(logits, uniform(keys, 0, (16,)))
    np.testing.assert_array_equal(ops.convert_to_numpy(tokens), ops.convert_to_numpy(expected))
    log_p = log_softmax(ops.convert_to_numpy(logits), axis=-1)
    chosen = np.take_along_axis(log_p, ops.convert_to_numpy(tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(ops.convert_to_numpy(certainty), chosen, atol=1e-5)


def test_the_most_certain_tokens_stay() -> None:
    """Without noise, the sampled tokens with the greatest probabilities stay after the first step."""
    made, keys = model(), ops.convert_to_tensor(np.arange(2, dtype=np.int32).reshape(1, 2))
    blank = ops.full((1, 16), 9, dtype="int32")
    first, certainty = made.fill(blank, np.array([16]), keys, texts(1), texts(1))
    both, _ = made.fill(blank, np.array([16, 6]), keys, texts(1), texts(1))
    surest = np.argsort(ops.convert_to_numpy(certainty)[0])[6:]
    np.testing.assert_array_equal(ops.convert_to_numpy(both)[0, surest], ops.convert_to_numpy(first)[0, surest])


def test_the_bound_is_the_mean_over_all_orders() -> None:
    """Three tokens, of which one is given: every order and every mask is computed."""
    made = model((3,), 4)
    x = np.array([[2, 0, 3]], np.int32)
    condition = texts(1)

    def log_p(masked: list[int]) -> np.ndarray:
        shown = x.copy()
        shown[0, masked] = 4
        logits = ops.convert_to_numpy(made(ops.convert_to_tensor(shown), condition))[0]
        return np.asarray(log_softmax(logits, axis=-1)[np.arange(3), x[0]])

    both = log_p([1, 2])
    expected = np.mean([both[1] + log_p([2])[2], both[2] + log_p([1])[1]])
    found = any_order_bound(
        made, ops.convert_to_tensor(x), condition, 8, np.array([1, 2])
    )  # 4 of both, 2 of each alone
    assert float(ops.convert_to_numpy(found)[0]) == pytest.approx(expected, abs=1e-4)


class Pairs(MaskedModel):
    """The ideal model of images whose tokens 2i and 2i + 1 are equal: its probabilities are exact."""

    def call(self, tokens: Any, condition: Any, training: bool = False) -> Any:
        partner = ops.reshape(ops.flip(ops.reshape(tokens, (-1, self.count // 2, 2)), axis=-1), (-1, self.count))
        return 100.0 * ops.one_hot(partner, self.vocabulary + 1)[..., :-1]  # even where the partner is masked


@pytest.fixture(scope="module")
def fitting() -> Any:
    made = Pairs(Transformer(width=16, depth=1, heads=2), (8, 8), 8)
    made.built = True  # it needs no weights
    keys = ops.convert_to_tensor(np.arange(3000, dtype=np.int32).reshape(-1, 2))

    def share(steps: int, **options: bool) -> float:
        """The share of equal pairs among 48,000, sampled with MaskGIT's randomness."""
        counts = masked_counts("cosine", 64, steps, **options)
        tokens, _ = made.fill(ops.full((1500, 64), 8, dtype="int32"), counts, keys, {}, {}, randomness=4.5)
        sampled = ops.convert_to_numpy(tokens)
        return float((sampled[:, ::2] == sampled[:, 1::2]).mean())

    return share


@pytest.mark.parametrize("steps", list(PAIRS))
def test_the_share_of_correct_pairs_is_that_of_the_paper_s_steps(steps: int, fitting: Any) -> None:
    assert fitting(steps) == pytest.approx(PAIRS[steps], abs=0.02)


@pytest.mark.parametrize("last_token_alone", [False, True])
def test_the_share_of_correct_pairs_in_two_passes_in_closed_form(last_token_alone: bool, fitting: Any) -> None:
    """The first pass keeps random tokens, as all are equally certain. Two tokens of one pass are equal by chance."""
    late = 1 if last_token_alone else int(64 * np.cos(np.pi / 4))
    apart = 1 - (late * (late - 1) + (64 - late) * (63 - late)) / (64 * 63)
    wanted = apart + (1 - apart) / 8
    assert fitting(2, last_token_alone=last_token_alone) == pytest.approx(wanted, abs=0.01)
