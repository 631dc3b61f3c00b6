"""The generators, in the way kgen uses them."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.ar import Autoregressive
from kgen_plugin_tokens.ar_nar import Combined
from kgen_plugin_tokens.nar import NonAutoregressive
from kgen_plugin_tokens.transformer import Transformer

from kgen import ConditionSpace, Space, SpaceError
from kgen.pipeline.levels import recording
from kgen.previews import showing
from kgen.random import sample
from kgen.testing import GeneratorConformance, gradients
from kgen.testing.execution import perturb
from kgen.testing.inputs import random_conditions, random_latents
from kgen.testing.losses import check_gradients

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("tokens", (4, 4), vocabulary=7), ConditionSpace(3, 6)
CROSS = Transformer(width=16, depth=1, heads=2)
PREFIX = Transformer(width=16, depth=2, heads=2, text="prefix", positions="learned")


class TestAutoregressive(GeneratorConformance):
    generate_options: ClassVar = ({}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "guidance": 2.0})

    def build(self) -> Autoregressive:
        return Autoregressive(SPACE, CONDITIONS, network=CROSS)


@pytest.mark.slow  # test_causal computes its logits and probabilities, with prefix and in random order
class TestPrefixAndAnyOrder(GeneratorConformance):
    replicas: ClassVar = False
    generate_options: ClassVar = ({"guidance": 1.5},)

    def build(self) -> Autoregressive:
        return Autoregressive(SPACE, CONDITIONS, network=PREFIX, order="random")


class TestNonAutoregressive(GeneratorConformance):
    likelihood_options: ClassVar = {"samples": 4}
    generate_options: ClassVar = (
        {},
        {"steps": 1},
        {"steps": 3, "guidance": 2.0, "guidance_rises": True, "temperature": 0.8, "top_p": 0.9, "revise": True},
        {"steps": 3, "last_token_alone": True},
    )

    def build(self) -> NonAutoregressive:
        return NonAutoregressive(SPACE, CONDITIONS, network=CROSS, smoothing=0.1, corruption=0.1)


class TestMaskedWithPrefix(GeneratorConformance):
    replicas: ClassVar = False
    likelihood_options: ClassVar = {"samples": 4}
    generate_options: ClassVar = ({"steps": 2},)

    def build(self) -> NonAutoregressive:
        return NonAutoregressive(SPACE, CONDITIONS, network=PREFIX, schedule="arccos")


@pytest.mark.backends
class TestCombined(GeneratorConformance):
    replicas: ClassVar = False  # its two parts are the generators above
    likelihood_options: ClassVar = {"samples": 4}
    generate_options: ClassVar = ({}, {"steps": 2, "rounds": 1, "guidance": 2.0, "last_token_alone": True})

    def build(self) -> Combined:
        return Combined(SPACE, CONDITIONS, network=CROSS, draft=CROSS)


def test_spaces_and_steps_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="heads"):
        Transformer(width=20, heads=3)
    with pytest.raises(SpaceError, match="stride 2 needs a grid of at least 2x2 tokens, but these are 16 tokens of 4"):
        Combined(Space("tokens", (16,), vocabulary=4), CONDITIONS)
    with pytest.raises(SpaceError, match="at least 5x5 tokens"):
        Combined(SPACE, CONDITIONS, stride=5)
    for generator in (NonAutoregressive(SPACE, CONDITIONS, network=CROSS), Combined(SPACE, CONDITIONS, network=CROSS)):
        with pytest.raises(ValueError, match=r"17 are more than the 1. tokens"):
            generator.noise_spec(steps=17)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="guidance_rises has no effect without guidance"):
        NonAutoregressive(SPACE, CONDITIONS, network=CROSS).noise_spec(guidance_rises=True)
    with pytest.raises(ValueError, match="there are no rounds"):
        Combined(SPACE, CONDITIONS, network=CROSS, draft=CROSS).noise_spec(rewrite=0.5)


@pytest.mark.parametrize("kind", [Autoregressive, NonAutoregressive])
def test_a_text_of_one_position_needs_no_queries(kind: Any) -> None:
    """All weights have gradients, and the likelihood depends on the text."""
    keras.utils.set_random_seed(0)
    generator = kind(SPACE, ConditionSpace(1, 6), network=CROSS)
    perturb(generator)
    x = ops.convert_to_tensor(random_latents(SPACE, 3, 0))
    one, other = (
        {name: ops.convert_to_tensor(value) for name, value in random_conditions(ConditionSpace(1, 6), 3, seed).items()}
        for seed in (0, 1)
    )
    check_gradients(gradients(generator, lambda: ops.mean(generator.compute_losses(x, one, True)["loss"])))
    other["pooled"] = one["pooled"]
    options = {} if kind is Autoregressive else {"samples": 2}
    found, others = (ops.convert_to_numpy(generator.log_likelihood(x, text, **options)) for text in (one, other))
    assert np.abs(found - others).min() > 1e-4


@pytest.mark.parametrize("order", ["raster", "random"])
def test_the_likelihood_of_random_orders_is_a_bound_of_their_mean(order: Any) -> None:
    """All six orders of three tokens are computed: one order is exact, and random orders are near the mean of six."""
    keras.utils.set_random_seed(0)
    generator = Autoregressive(Space("tokens", (3,), vocabulary=3), CONDITIONS, network=CROSS, order=order)
    perturb(generator)
    x = ops.convert_to_tensor(np.array(list(itertools.product(range(3), repeat=3)), np.int32))
    condition = random_conditions(CONDITIONS, 1, 0)
    condition = {name: ops.convert_to_tensor(np.repeat(value, 27, axis=0)) for name, value in condition.items()}

    def probability(order: tuple[int, ...]) -> np.ndarray:
        given = ops.convert_to_tensor(np.array([order], np.int32))
        return np.exp(ops.convert_to_numpy(generator._log_likelihood(x, given, condition)).astype("float64"))

    found = np.exp(ops.convert_to_numpy(generator.log_likelihood(x, condition)).astype("float64"))
    assert found.sum() == pytest.approx(1.0, abs=1e-4)
    if order == "raster":
        np.testing.assert_allclose(found, probability((0, 1, 2)), rtol=1e-4)
        assert generator.likelihood_label() == "exact"
        return
    each = np.stack([probability(order) for order in itertools.permutations(range(3))])
    assert np.abs(found / each.mean(axis=0) - 1).max() < 0.5 * np.abs(each[0] / each.mean(axis=0) - 1).max()
    assert generator.likelihood_label() == "a bound of 16 orders"


def test_the_likelihood_of_filling_in_is_called_an_estimate() -> None:
    for kind in (NonAutoregressive, Combined):
        generator = kind(SPACE, CONDITIONS, network=CROSS)
        assert generator.likelihood == "estimate"
        assert generator.likelihood_label() == "an estimate of 64 masks"
        assert generator.likelihood_label(samples=1) == "an estimate of 1 mask"


def test_sampling_steps_are_sequential_passes() -> None:
    parts = SPACE, CONDITIONS
    assert Autoregressive(*parts, network=CROSS).num_sampling_steps(temperature=0.7) == 16
    assert NonAutoregressive(*parts, network=CROSS).num_sampling_steps(temperature=0.7) == 8
    combined = Combined(*parts, network=CROSS, draft=CROSS)
    assert combined.num_sampling_steps() == 4 + 4 and combined.num_sampling_steps(steps=2, rounds=2) == 4 + 2 + 6


@pytest.mark.parametrize("cls", [Autoregressive, NonAutoregressive])
def test_the_losses_by_level_are_those_of_the_examples(cls: Any) -> None:
    generator = cls(SPACE, CONDITIONS, network=CROSS)
    with recording() as recorded:
        losses = generator.compute_losses(random_latents(SPACE, 3, 0), random_conditions(CONDITIONS, 3, 0), True)
    ((levels, values),) = (tuple(map(ops.convert_to_numpy, pair)) for pair in recorded)
    loss, axis = ops.convert_to_numpy(losses["loss"]), generator.loss_axis
    if cls is Autoregressive:
        np.testing.assert_array_equal(levels, np.tile(np.arange(SPACE.size), (3, 1)))
        np.testing.assert_allclose(values.mean(axis=1), loss, rtol=1e-5)
        assert (axis.low, axis.high) == (0, SPACE.size)
    else:
        np.testing.assert_allclose(values, loss)
        masked = levels * SPACE.size  # whole numbers
        np.testing.assert_allclose(masked, np.round(masked), atol=1e-4)
        assert levels.min() > axis.low == 0 and levels.max() <= axis.high == 1 and len(set(levels)) > 1


def arguments(count: int) -> tuple[dict[str, Any], ...]:
    condition, null = (random_conditions(CONDITIONS, count, seed) for seed in (0, 1))
    return tuple({k: ops.convert_to_tensor(v) for k, v in part.items()} for part in (condition, null))


def noise_of(generator: Any, count: int, **options: Any) -> dict[str, Any]:
    noise = sample(generator.noise_spec(**options), [(0, copy) for copy in range(count)])
    return {name: ops.convert_to_tensor(value) for name, value in noise.items()}


def test_a_variation_keeps_the_tokens_that_are_not_sampled_again() -> None:
    keras.utils.set_random_seed(0)
    generator = NonAutoregressive(Space("tokens", (8, 8), vocabulary=50), CONDITIONS, network=CROSS)
    source = random_latents(generator.space, 6, 0)
    for strength in (0.1, 0.5):
        made = generator.generate(
            *arguments(6), noise_of(generator, 6), ops.convert_to_tensor(source), strength=strength
        )
        same = (ops.convert_to_numpy(made) == source).mean(axis=(1, 2))
        assert (same >= 1 - strength - 0.01).all() and (same < 1).all()


@pytest.mark.parametrize("shape", [(8, 8), (4, 8, 3)])
def test_only_the_tokens_in_the_mask_are_sampled_again(shape: tuple[int, ...]) -> None:
    keras.utils.set_random_seed(0)
    generator = NonAutoregressive(Space("tokens", shape, vocabulary=50), CONDITIONS, network=CROSS)
    source = random_latents(generator.space, 3, 0)
    edit_mask = np.zeros((3, *shape[:2]), bool)
    edit_mask[0, :, 4:], edit_mask[1, 1, 2] = True, True  # half of the image, a single cell, nothing
    for options in ({}, {"steps": 1}, {"revise": True, "guidance": 2.0}):
        given = [ops.convert_to_tensor(array) for array in (source, edit_mask)]
        made = ops.convert_to_numpy(generator.generate(*arguments(3), noise_of(generator, 3), *given, **options))
        np.testing.assert_array_equal(made[~edit_mask], source[~edit_mask])
        assert (
            made[0][edit_mask[0]] != source[0][edit_mask[0]]
        ).mean() > 0.8  # with 50 possible tokens, few stay the same by chance
        assert made.min() >= 0 and made.max() < 50


def test_a_mask_of_all_tokens_gives_a_new_image() -> None:
    """The same steps with the same numbers of masked tokens and the same random numbers give the same image."""
    keras.utils.set_random_seed(0)
    generator = NonAutoregressive(Space("tokens", (8, 8), vocabulary=50), CONDITIONS, network=CROSS)
    source = ops.convert_to_tensor(random_latents(generator.space, 3, 0))
    new = generator.generate(*arguments(3), noise_of(generator, 3))
    made = generator.generate(*arguments(3), noise_of(generator, 3), source, ops.ones((3, 8, 8), "bool"))
    np.testing.assert_array_equal(ops.convert_to_numpy(made), ops.convert_to_numpy(new))


def test_the_draft_stays() -> None:
    """Filling in does not change the draft: other random numbers for it give the same draft."""
    keras.utils.set_random_seed(0)
    generator = Combined(SPACE, CONDITIONS, network=CROSS, draft=CROSS)
    first, second = noise_of(generator, 4), noise_of(generator, 4)
    second["steps"] = second["steps"] + 1
    one, other = (ops.convert_to_numpy(generator.generate(*arguments(4), noise)) for noise in (first, second))
    np.testing.assert_array_equal(one[:, ::2, ::2], other[:, ::2, ::2])
    assert (one != other).any()
    second["draft"] = 1.0 - second["draft"]
    third = ops.convert_to_numpy(generator.generate(*arguments(4), second))
    assert (third[:, ::2, ::2] != one[:, ::2, ::2]).any()


@pytest.mark.parametrize("cls", [NonAutoregressive, Combined])
def test_each_step_shows_all_tokens_as_the_model_expects_them(cls: Any) -> None:
    generator = cls(SPACE, CONDITIONS, network=CROSS, **({"draft": CROSS} if cls is Combined else {}))
    shown: list[Any] = []
    with showing(shown.append):
        made = generator.generate(*arguments(2), noise_of(generator, 2), steps=3)
    np.testing.assert_array_equal(ops.convert_to_numpy(shown[-1]), ops.convert_to_numpy(made))
    assert [ops.convert_to_numpy(tokens).max() < SPACE.vocabulary for tokens in shown] == [True] * 3
