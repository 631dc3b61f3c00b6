"""The causal model: it sees no later tokens, its probabilities sum to 1, and the cache changes no logits."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.ar import Autoregressive
from kgen_plugin_tokens.causal import CausalModel
from kgen_plugin_tokens.positions import reading_order
from kgen_plugin_tokens.sampling import guide
from kgen_plugin_tokens.transformer import Transformer
from scipy.special import log_softmax

from kgen import ConditionSpace, Space
from kgen.testing.execution import gradients, perturb
from kgen.testing.inputs import random_conditions

pytestmark = pytest.mark.portable

SHAPE, COUNT, VOCABULARY = (3, 4), 12, 20
CONDITIONS = ConditionSpace(3, 6)
KINDS = list(itertools.product(["rotary", "learned"], ["cross", "prefix"]))


def texts(count: int, seed: int = 0) -> dict[str, Any]:
    return {k: ops.convert_to_tensor(v) for k, v in random_conditions(CONDITIONS, count, seed).items()}


def model(positions: Any, text: Any, shape: tuple[int, ...] = SHAPE, vocabulary: int = VOCABULARY) -> CausalModel:
    keras.utils.set_random_seed(0)
    options = Transformer(width=16, depth=2, heads=2, positions=positions, text=text)
    made = CausalModel(options, shape, vocabulary)
    made.build((None, CONDITIONS.length, CONDITIONS.dim), (None, CONDITIONS.pooled_dim))
    perturb(made)
    return made


def eager() -> Any:
    """A context in which the body of a loop is run, not traced."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("positions, text", KINDS)
def test_logits_with_a_cache_equal_logits_without(positions: str, text: str, guidance: float) -> None:
    made, condition, null = model(positions, text), texts(3), texts(3, seed=1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (3, COUNT)).astype(np.int32)
    orders = np.stack([rng.permutation(COUNT) for _ in range(3)]).astype(np.int32)
    expected = made(tokens, ops.convert_to_tensor(orders), condition)
    if guidance != 1.0:
        expected = guide(expected, made(tokens, ops.convert_to_tensor(orders), null), guidance)
    seen = []

    def forced(logits: Any, index: Any) -> Any:
        """Returns the given tokens, whatever the logits are."""
        seen.append(ops.convert_to_numpy(logits))
        return ops.convert_to_tensor(tokens[:, int(index)])

    with eager():
        written = made.sample(ops.convert_to_tensor(orders), condition, null, forced, guidance)
    np.testing.assert_array_equal(ops.convert_to_numpy(written), tokens)
    np.testing.assert_allclose(np.stack(seen, axis=1), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions, text", KINDS)
def test_nothing_leaks_from_the_future(positions: str, text: str) -> None:
    made, condition = model(positions, text), texts(1)
    tokens = ops.convert_to_tensor(np.arange(COUNT, dtype=np.int32)[None])  # all differ
    order = ops.convert_to_tensor(reading_order("spiral", SHAPE)[None])
    (row,) = [i for i, w in enumerate(made.trainable_variables) if w is made.embedding.embeddings]
    weight = ops.convert_to_tensor(np.random.default_rng(0).standard_normal(VOCABULARY).astype("float32"))
    for position in (0, 1, 5, COUNT - 1):

        def logit(position: int = position) -> Any:
            return ops.sum(made(tokens, order, condition)[0, position] * weight)

        gradient = list(gradients(made, logit).values())[row]
        size = np.zeros(COUNT) if gradient is None else np.abs(np.asarray(gradient)).sum(axis=1)[:COUNT]
        assert (size[position:] == 0).all()
        assert (size[:position] > 0).all()


@pytest.mark.parametrize("order", ["raster", "columns", "spiral", "random"])
def test_the_probabilities_of_all_sequences_sum_to_one(order: Any) -> None:
    keras.utils.set_random_seed(0)
    options = Transformer(width=16, depth=2, heads=2)
    generator = Autoregressive(Space("tokens", (2, 2), vocabulary=3), CONDITIONS, network=options, order=order)
    perturb(generator)
    every = np.array(list(itertools.product(range(3), repeat=4)), np.int32)  # (81, 4)
    condition = {name: ops.repeat(value, 81, axis=0) for name, value in texts(1).items()}
    found = generator.log_likelihood(ops.convert_to_tensor(every.reshape(-1, 2, 2)), condition)
    probabilities = np.exp(ops.convert_to_numpy(found))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert probabilities.std() > 1e-3
    if order == "random":
        for permutation in itertools.islice(itertools.permutations(range(4)), 0, None, 5):
            fixed = ops.convert_to_tensor(np.array([permutation], np.int32))
            found = generator._log_likelihood(ops.convert_to_tensor(every), fixed, condition)
            assert np.exp(ops.convert_to_numpy(found)).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_likelihood_is_the_sum_of_the_tokens() -> None:
    keras.utils.set_random_seed(0)
    options = Transformer(width=16, depth=1, heads=2)
    generator = Autoregressive(Space("tokens", SHAPE, VOCABULARY), CONDITIONS, network=options, order="columns")
    perturb(generator)
    x = np.random.default_rng(0).integers(0, VOCABULARY, (3, *SHAPE)).astype(np.int32)
    sequence = x.transpose(0, 2, 1).reshape(3, -1)
    order = ops.convert_to_tensor(reading_order("columns", SHAPE)[None])
    logits = ops.convert_to_numpy(generator.model(ops.convert_to_tensor(sequence), order, texts(3)))
    expected = np.take_along_axis(log_softmax(logits, axis=-1), sequence[..., None], axis=-1)[..., 0].sum(axis=1)
    found = ops.convert_to_numpy(generator.log_likelihood(ops.convert_to_tensor(x), texts(3)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    losses = generator.compute_losses(ops.convert_to_tensor(x), texts(3), training=False)
    np.testing.assert_allclose(ops.convert_to_numpy(losses["loss"]), -expected / COUNT, rtol=1e-5)


def test_samples_follow_the_probabilities() -> None:
    """The frequency of each image of a tiny model equals its likelihood."""
    keras.utils.set_random_seed(0)
    space = Space("tokens", (2, 1), vocabulary=3)
    generator = Autoregressive(space, CONDITIONS, network=Transformer(width=16, depth=1, heads=2), order="random")
    perturb(generator)
    every = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
    both = []
    for order in ([0, 1], [1, 0]):
        condition = {name: ops.repeat(value, 9, axis=0) for name, value in texts(1).items()}
        fixed = ops.convert_to_tensor(np.array([order], np.int32))
        both.append(
            np.exp(ops.convert_to_numpy(generator._log_likelihood(ops.convert_to_tensor(every), fixed, condition)))
        )
    count = 4000
    rng = np.random.default_rng(0)
    noise = {name: ops.convert_to_tensor(rng.random((count, 2)).astype("float32")) for name in ("tokens", "order")}
    condition = {name: ops.repeat(value, count, axis=0) for name, value in texts(1).items()}
    x = ops.convert_to_numpy(generator.generate(condition, condition, noise)).reshape(count, 2)
    frequencies = np.bincount(x[:, 0] * 3 + x[:, 1], minlength=9) / count
    np.testing.assert_allclose(frequencies, np.mean(both, axis=0), atol=0.03)
