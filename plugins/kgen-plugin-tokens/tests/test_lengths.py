"""Sequences of different lengths: samples, likelihoods, and the sum of all probabilities, which is 1."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.ar import Autoregressive
from kgen_plugin_tokens.bidirectional import any_order_bound
from kgen_plugin_tokens.lengths import before_end, ended, lengths_of, up_to_end
from kgen_plugin_tokens.masking import masked_counts, row_counts
from kgen_plugin_tokens.nar import NonAutoregressive, random_mask
from kgen_plugin_tokens.transformer import Transformer
from scipy.special import log_softmax, softmax

from kgen import ConditionSpace, SeedGenerator, Space, SpaceError
from kgen.random import sample
from kgen.testing import GeneratorConformance
from kgen.testing.execution import Program, arrays, perturb
from kgen.testing.inputs import random_conditions

pytestmark = pytest.mark.portable

CONDITIONS = ConditionSpace(3, 6)
NETWORK = Transformer(width=16, depth=1, heads=2)
SEQUENCE = Space("tokens", (9,), vocabulary=5)
TINY = Space("tokens", (3,), vocabulary=3)
PAIR = Space("tokens", (2,), vocabulary=4)
TEXTS = [[2, 1, 0, 2, 0], [0, 3, 0, 0, 0], [4, 3, 2, 1, 2], [1, 0, 0, 0, 0]]
LENGTHS = [2, 0, 5, 1]


@pytest.mark.slow  # TestPredicted has all of its parts and more
class TestFixed(GeneratorConformance):
    replicas: ClassVar = False
    generate_options: ClassVar = ({}, {"temperature": 0.7, "top_k": 3, "guidance": 2.0})

    def build(self) -> Autoregressive:
        return Autoregressive(SEQUENCE, CONDITIONS, network=NETWORK, length="fixed")


class TestPredicted(GeneratorConformance):
    replicas: ClassVar = False
    generate_options: ClassVar = ({}, {"temperature": 0.7, "top_p": 0.9, "guidance": 2.0})

    def build(self) -> Autoregressive:
        return Autoregressive(SEQUENCE, CONDITIONS, network=NETWORK, length="predicted")


@pytest.mark.slow
class TestFixedAtOnce(GeneratorConformance):
    replicas: ClassVar = False
    likelihood_options: ClassVar = {"samples": 4}
    generate_options: ClassVar = ({"steps": 3}, {"steps": 1})

    def build(self) -> NonAutoregressive:
        return NonAutoregressive(SEQUENCE, CONDITIONS, network=NETWORK, length="fixed")


class TestPredictedAtOnce(GeneratorConformance):
    replicas: ClassVar = False
    likelihood_options: ClassVar = {"samples": 4}
    generate_options: ClassVar = (
        {"steps": 4},
        {"steps": 3, "guidance": 2.0, "guidance_rises": True, "temperature": 0.8, "top_p": 0.9, "revise": True},
    )

    def build(self) -> NonAutoregressive:
        return NonAutoregressive(
            SEQUENCE, CONDITIONS, network=NETWORK, length="predicted", smoothing=0.1, corruption=0.1
        )


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, np.int32))


def texts(count: int, seed: int = 0) -> dict[str, Any]:
    one = random_conditions(CONDITIONS, 1, seed)
    return {name: ops.convert_to_tensor(np.repeat(value, count, axis=0)) for name, value in one.items()}


def generator(kind: Any, length: Any, space: Space = TINY, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    made = kind(space, CONDITIONS, network=NETWORK, length=length, **options)
    perturb(made)
    return made


def every(space: Space) -> np.ndarray:
    """All sequences (n, N) in which only end tokens follow an end token."""
    found = np.array(list(itertools.product(range(space.vocabulary or 0), repeat=space.size)), np.int32)
    after = np.cumsum(found == 0, axis=1) > 0
    return found[~(after & (found != 0)).any(axis=1)]


def probabilities(made: Any, sequences: np.ndarray, **options: Any) -> np.ndarray:
    program = Program(made, lambda batch: made.log_likelihood(batch["x"], batch["text"], **options))
    found = program({"x": np.asarray(sequences, np.int32), "text": arrays(texts(len(sequences)))})
    return np.exp(np.asarray(found, np.float64))


# ---- what a length is ------------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_tokens_before_the_end() -> None:
    tokens = tensor(TEXTS)
    assert ops.convert_to_numpy(lengths_of(tokens)).tolist() == LENGTHS
    assert ops.convert_to_numpy(before_end(tokens)).sum(axis=1).tolist() == LENGTHS
    assert ops.convert_to_numpy(up_to_end(tokens)).sum(axis=1).tolist() == [3, 1, 5, 2]
    assert ops.convert_to_numpy(ended(tokens)).tolist() == [[2, 1, 0, 0, 0], [0] * 5, [4, 3, 2, 1, 2], [1, 0, 0, 0, 0]]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "arccos"])
@pytest.mark.parametrize("last_token_alone", [False, True])
def test_counts_of_rows_equal_counts_of_one_number_of_tokens(schedule: Any, last_token_alone: bool) -> None:
    wanted = [256, 64, 12, 5]
    found = ops.convert_to_numpy(row_counts(schedule, tensor(wanted), 5, last_token_alone))[..., 0]  # (steps, B)
    for row, count in enumerate(wanted):
        assert found[:, row].tolist() == masked_counts(schedule, count, 5, last_token_alone).tolist()
    few = ops.convert_to_numpy(row_counts(schedule, tensor([3, 2, 1, 0]), 5, last_token_alone))[..., 0]
    assert few.T.tolist() == [[3, 2, 1, 1, 1], [2, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_only_tokens_before_the_end_are_masked() -> None:
    tokens = tensor(np.repeat(TEXTS, 500, axis=0))
    there = ops.convert_to_numpy(before_end(tokens))
    mask = ops.convert_to_numpy(random_mask(tokens, "cosine", SeedGenerator(0), before_end(tokens)))
    assert not mask[~there].any()
    sizes = mask.sum(axis=1).reshape(4, 500)
    assert sizes.min(axis=1).tolist() == [1, 0, 1, 1] and sizes.max(axis=1).tolist() == LENGTHS


@pytest.mark.parametrize("kind", [Autoregressive, NonAutoregressive])
@pytest.mark.parametrize("length", ["fixed", "predicted"])
def test_a_length_is_for_sequences(kind: Any, length: Any) -> None:
    with pytest.raises(SpaceError, match=f"'{length}' is for sequences, .* these are 4x4 tokens of 7: leave it out"):
        kind(Space("tokens", (4, 4), vocabulary=7), CONDITIONS, network=NETWORK, length=length)
    with pytest.raises(SpaceError, match="a token besides the end"):
        kind(Space("tokens", (4,), vocabulary=1), CONDITIONS, network=NETWORK, length=length)


def test_sequences_are_read_in_raster_order() -> None:
    with pytest.raises(ValueError, match="from the first token to the last"):
        Autoregressive(SEQUENCE, CONDITIONS, network=NETWORK, length="fixed", order="random")


# ---- how likely sequences are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["fixed", "predicted"])
def test_the_probabilities_of_all_sequences_sum_to_one(length: str) -> None:
    made, sequences = generator(Autoregressive, length), every(TINY)
    assert len(sequences) == 1 + 2 + 4 + 8
    found = probabilities(made, sequences)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    assert found.std() > 1e-3


def test_tokens_after_the_end_do_not_count() -> None:
    for kind, length in itertools.product((Autoregressive, NonAutoregressive), ("fixed", "predicted")):
        made = generator(kind, length)
        np.testing.assert_allclose(*(probabilities(made, np.array([row])) for row in ([2, 0, 0], [2, 0, 1])), rtol=1e-6)


def test_the_loss_of_the_autoregressive_model_is_its_likelihood() -> None:
    sequences = every(TINY)
    for length in ("fixed", "predicted"):
        made = generator(Autoregressive, length)
        losses = made.compute_losses(tensor(sequences), texts(len(sequences)), training=False)
        np.testing.assert_allclose(
            np.exp(-3.0 * ops.convert_to_numpy(losses["loss"])), probabilities(made, sequences), rtol=1e-4
        )
        if length == "predicted":
            expected = -log_softmax(ops.convert_to_numpy(made.lengths(texts(1))))[0][(sequences != 0).sum(axis=1)]
            np.testing.assert_allclose(ops.convert_to_numpy(losses["length"]), expected, rtol=1e-5)


def test_the_autoregressive_model_depends_on_the_length() -> None:
    """The logits of the same tokens differ between lengths."""
    made = generator(Autoregressive, "predicted")
    order = ops.convert_to_tensor(np.arange(3, dtype=np.int32)[None])
    short, long = (
        ops.convert_to_numpy(
            made.model(tensor([[1, 1, 1]]), order, made.lengths.condition_on_length(tensor([count]), texts(1)))
        )
        for count in (1, 3)
    )
    assert np.abs(short[:, :, 1:] - long[:, :, 1:]).max() > 1e-3


def in_all_orders(made: NonAutoregressive, sequence: np.ndarray) -> tuple[float, float]:
    """p(tokens | length), and the mean of log p over all orders of filling in the tokens before the end."""
    places = range(int((sequence != 0).sum()))
    logs = []
    for order in itertools.permutations(places):
        total, hidden = 0.0, list(order)
        while hidden:
            shown = sequence.copy()
            shown[hidden] = made.space.vocabulary
            logits = np.asarray(ops.convert_to_numpy(made.model(tensor([shown]), texts(1))))[0]
            place = hidden.pop(0)
            total += float(log_softmax(logits, axis=-1)[place, sequence[place]])
        logs.append(total)
    return float(np.mean(np.exp(logs))), float(np.mean(logs))


def test_the_bound_is_below_probabilities_that_sum_to_one() -> None:
    """The mean over all orders, computed in full, is a distribution, and the bound is below it."""
    made, sequences = generator(NonAutoregressive, "predicted", PAIR), every(PAIR)
    of_lengths = softmax(ops.convert_to_numpy(made.lengths(texts(1))))[0]
    both = [in_all_orders(made, sequence) for sequence in sequences]
    exact = of_lengths[(sequences != 0).sum(axis=1)] * [p for p, _ in both]
    assert exact.sum() == pytest.approx(1.0, abs=1e-5)
    bound = of_lengths[(sequences != 0).sum(axis=1)] * np.exp([mean for _, mean in both])
    found = probabilities(made, sequences, samples=8)  # 4 masks hide both tokens, and 2 hide each one alone
    np.testing.assert_allclose(found, bound, rtol=1e-4)
    short = (sequences != 0).sum(axis=1) < 2  # there is a single order
    np.testing.assert_allclose(found[short], exact[short], rtol=1e-4)
    assert (bound <= exact * (1 + 1e-6)).all() and (bound[~short] < exact[~short] * (1 - 1e-6)).any()


@pytest.mark.slow
def test_the_bound_of_rows_equals_that_of_given_places() -> None:
    """All places are before the end, and so both ways of giving the hidden places agree on average over many masks."""
    made = generator(NonAutoregressive, None)

    def bounds(batch: Any) -> Any:
        forms = (before_end(batch["x"]), np.arange(3))
        return [any_order_bound(made.model, batch["x"], batch["text"], 768, hidden) for hidden in forms]

    batch = {"x": np.array([[2, 1, 2], [1, 1, 2]], np.int32), "text": arrays(texts(2))}
    np.testing.assert_allclose(*Program(made, bounds)(batch), rtol=0.01)


def test_the_loss_is_of_masked_tokens_and_of_the_length() -> None:
    made = generator(NonAutoregressive, "predicted")
    sequences = np.array([[2, 0, 0], [0, 0, 0]], np.int32)
    losses = {k: ops.convert_to_numpy(v) for k, v in made.compute_losses(tensor(sequences), texts(2), False).items()}
    of_lengths = -log_softmax(ops.convert_to_numpy(made.lengths(texts(1))))[0]
    np.testing.assert_allclose(losses["length"], of_lengths[[1, 0]], rtol=1e-5)
    np.testing.assert_allclose(
        losses["loss"], [of_lengths[1] - in_all_orders(made, sequences[0])[1], of_lengths[0]], rtol=1e-5
    )


# ---- sampling --------------------------------------------------------------------------------------------------------


def samples(made: Any, count: int, **options: Any) -> np.ndarray:
    noise = sample(made.noise_spec(**options), [(0, copy) for copy in range(count)])
    given = {name: ops.convert_to_tensor(value) for name, value in noise.items()}
    return np.asarray(ops.convert_to_numpy(made.generate(texts(count), texts(count, 1), given, **options)))


@pytest.mark.parametrize("length", ["fixed", "predicted"])
def test_samples_follow_the_probabilities(length: str) -> None:
    made, sequences = generator(Autoregressive, length), every(TINY)
    found = samples(made, 4000)
    frequencies = (found[:, None] == sequences[None]).all(axis=2).mean(axis=0)
    assert frequencies.sum() == pytest.approx(1.0)  # no other sequence is sampled
    np.testing.assert_allclose(frequencies, probabilities(made, sequences), atol=0.03)


def test_samples_in_a_few_passes_have_the_predicted_lengths() -> None:
    made, sequences = generator(NonAutoregressive, "predicted"), every(TINY)
    found = samples(made, 4000, steps=3)
    frequencies = (found[:, None] == sequences[None]).all(axis=2).mean(axis=0)
    assert frequencies.sum() == pytest.approx(1.0)
    lengths = np.bincount((found != 0).sum(axis=1), minlength=4) / 4000
    np.testing.assert_allclose(lengths, softmax(ops.convert_to_numpy(made.lengths(texts(1))))[0], atol=0.03)
    of_one = (sequences != 0).sum(axis=1) == 1
    np.testing.assert_allclose(frequencies[of_one], probabilities(made, sequences)[of_one], atol=0.03)


@pytest.mark.backends
def test_one_uniform_number_gives_the_length() -> None:
    made = generator(NonAutoregressive, "predicted", SEQUENCE)
    reached = np.cumsum(softmax(ops.convert_to_numpy(made.lengths(texts(1))))[0])
    noise = {
        "steps": tensor(np.arange(20).reshape(10, 2)),
        "length": ops.convert_to_tensor((reached - 0.01).astype("float32")[:, None]),
    }
    found = ops.convert_to_numpy(made.generate(texts(10), texts(10), noise, steps=2))
    assert (found != 0).sum(axis=1).tolist() == list(range(10))


def test_a_sequence_of_a_few_passes_ends_at_its_first_end_token() -> None:
    found = samples(generator(NonAutoregressive, "fixed"), 500, steps=3)
    assert ops.convert_to_numpy(ended(tensor(found))).tolist() == found.tolist()
    assert len(set((found != 0).sum(axis=1))) == 4


@pytest.mark.parametrize("length", ["fixed", "predicted"])
def test_a_variation_of_a_sequence(length: str) -> None:
    made = generator(NonAutoregressive, length, Space("tokens", (12,), vocabulary=40))
    source = np.random.default_rng(0).integers(1, 40, (5, 12)).astype(np.int32)
    for row, until in enumerate([12, 8, 4, 1, 0]):
        source[row, until:] = 0
    noise = sample(made.noise_spec(), [(0, copy) for copy in range(5)])
    given = {name: ops.convert_to_tensor(value) for name, value in noise.items()}
    found = ops.convert_to_numpy(made.generate(texts(5), texts(5, 1), given, tensor(source), strength=0.5))
    if length == "predicted":
        assert (found != 0).sum(axis=1).tolist() == [12, 8, 4, 1, 0]
        kept = ((found == source) & (source != 0)).sum(axis=1)
        assert (kept[:3] >= [6, 4, 2]).all() and (kept[:3] < [12, 8, 4]).any()
    assert ops.convert_to_numpy(ended(tensor(found))).tolist() == found.tolist()
