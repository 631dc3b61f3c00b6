"""The diffusion prior: its contract, its network, and what it learns."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_unclip.candidates import nearest_to_text
from kgen_plugin_unclip.network import CausalTransformer
from kgen_plugin_unclip.prior import Prior
from kgen_plugin_unclip.vectors import to_length

from kgen import ConditionSpace, Space, SpaceError
from kgen.plugins.discovery import registry
from kgen.random import sample
from kgen.testing import GeneratorConformance
from kgen.testing.execution import perturb, tensors
from kgen.testing.inputs import random_conditions

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("continuous", (6,), bounded=False), ConditionSpace(4, 10, 6)
TINY = CausalTransformer(width=16, depth=1, heads=2)


@pytest.mark.backends
class TestPrior(GeneratorConformance):
    generate_options: ClassVar = (
        {"steps": 3},
        {"steps": 2, "candidates": 1, "guidance": 3.0, "sampler": "ddim", "eta": 0.5},
    )

    def build(self) -> Prior:
        return Prior(SPACE, CONDITIONS, network=TINY)


def made(options: CausalTransformer = TINY) -> Prior:
    """A prior whose weights are all random."""
    keras.utils.set_random_seed(0)
    prior = Prior(SPACE, CONDITIONS, network=options)
    prior.compute_losses(ops.zeros((1, 6)), conditions(1), training=False)
    perturb(prior)
    return prior


def conditions(count: int, seed: int = 0) -> dict[str, Any]:
    return tensors(random_conditions(CONDITIONS, count, seed))


def generate(prior: Prior, condition: Any, noise: Any, **options: Any) -> np.ndarray:
    null = conditions(ops.shape(condition["mask"])[0], seed=9)
    return ops.convert_to_numpy(prior.generate(condition, null, tensors(noise), steps=3, **options))


def noise_of(prior: Prior, count: int, **options: Any) -> dict[str, np.ndarray]:
    return sample(prior.noise_spec(**options), [(0, copy) for copy in range(count)])


def test_it_is_registered() -> None:
    assert registry().find("generator", "unclip/prior").load() is Prior
    assert registry().find("diffusion.network", "causal").load() is CausalTransformer


@pytest.mark.parametrize("change", ["text", "pooled", "level", "vector"])
def test_a_position_reads_only_itself_and_earlier_ones(change: str) -> None:
    layer = made(CausalTransformer(width=16, depth=2, heads=2)).diffusion.model
    x, level, one = ops.ones((1, 6)), ops.full((1,), 300.0), conditions(1)
    before = ops.convert_to_numpy(layer.run(x, level, one))[0]  # (8, 16)
    place = {"text": 2, "pooled": 4, "level": 5, "vector": 6}[change]
    if change == "text":
        one = {**one, "sequence": one["sequence"] + ops.convert_to_tensor(np.eye(4, dtype="float32")[2][:, None])}
    elif change == "pooled":
        one = {**one, "pooled": one["pooled"] + 1.0}
    x, level = x + (change == "vector"), level + 200.0 * (change == "level")
    after = ops.convert_to_numpy(layer.run(x, level, one))[0]
    np.testing.assert_array_equal(after[:place], before[:place])
    assert np.abs(after[place:] - before[place:]).max(axis=1).min() > 1e-4  # all later ones read it


def test_padding_of_the_text_is_not_read() -> None:
    layer = made().diffusion.model
    one = {**conditions(1), "mask": ops.convert_to_tensor(np.array([[1, 1, 0, 0]], "float32"))}
    other = {**one, "sequence": ops.concatenate([one["sequence"][:, :2], one["sequence"][:, 2:] + 5.0], axis=1)}
    made_of = [ops.convert_to_numpy(layer(ops.ones((1, 6)), ops.full((1,), 300.0), text)) for text in (one, other)]
    np.testing.assert_array_equal(*made_of)


def test_the_network_has_its_options_and_reads_the_learned_vectors_of_positions() -> None:
    layer = made(CausalTransformer(width=16, depth=1, heads=4, mlp_ratio=2.0, dropout=0.5)).diffusion.model
    (block,) = layer.blocks
    assert (block.heads, block.hidden) == (4, 32)
    arguments = (ops.ones((1, 6)), ops.full((1,), 300.0), conditions(1))
    outputs = [ops.convert_to_numpy(layer(*arguments, training=training)) for training in (True, True, False, False)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4  # dropout
    np.testing.assert_array_equal(*outputs[2:])
    for position in (0, -1):  # the last one is the query
        positions = ops.convert_to_numpy(layer.positions).copy()
        positions[position, ::2] += 1.0
        layer.positions.assign(positions)
        outputs.append(ops.convert_to_numpy(layer(*arguments)))
        assert np.abs(outputs[-1] - outputs[-2]).max() > 1e-4


def test_the_loss_is_the_error_of_the_embedding_at_uniform_times_of_the_cosine_schedule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior, count = made(), 4000
    seen: list[np.ndarray] = []

    def network(x: Any, alpha: Any, sigma: Any, level: Any, condition: Any, training: bool) -> Any:
        seen.extend(ops.convert_to_numpy(value) for value in (x, level))
        return ops.full(ops.shape(x), 0.25)

    monkeypatch.setattr(prior.diffusion, "_network", network)
    x = np.random.default_rng(0).standard_normal((count, 6)).astype("float32")
    losses = ops.convert_to_numpy(prior.compute_losses(ops.convert_to_tensor(x), {}, training=True)["loss"])
    np.testing.assert_allclose(losses, np.mean((x - 0.25) ** 2, axis=1), rtol=1e-4)
    noisy, times = seen[0], seen[1] / 1000.0
    assert np.abs(np.quantile(times, [0.1, 0.25, 0.5, 0.75, 0.9]) - [0.1, 0.25, 0.5, 0.75, 0.9]).max() < 0.03
    alpha = np.cos((times + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)  # Nichol and Dhariwal 2021
    noise = noisy - alpha[:, None] * x
    for low in (0.1, 0.3, 0.5, 0.7, 0.9):
        near = (times > low) & (times < low + 0.1)
        share = np.mean(noise[near] ** 2) / np.mean(1.0 - alpha[near] ** 2)
        assert abs(share - 1.0) < 0.1, low


def test_options_of_sampling_reach_the_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, seen = made(), []

    def sampled(condition: Any, null: Any, noise: Any, **options: Any) -> Any:
        seen.append(options)
        return noise["start"]

    monkeypatch.setattr(prior.diffusion, "generate", sampled)
    given = {"sampler": "ddim", "spacing": "quadratic", "guidance": 2.0, "eta": 0.5}
    noise = noise_of(prior, 2, sampler="ddim", eta=0.5)
    assert {"start0", "start1"} < set(noise) and len(noise) == 4  # the fresh noise of each candidate, too
    assert generate(prior, conditions(2), noise, **given).shape == (2, 6) and seen == [{"steps": 3, **given}]


def test_embeddings_have_the_length_of_latents() -> None:
    prior = made()
    x = generate(prior, conditions(3), noise_of(prior, 3))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), math.sqrt(6), rtol=1e-5)
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    expected = x * math.sqrt(5) / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(to_length(x)), expected, rtol=1e-5)
    assert np.isfinite(ops.convert_to_numpy(to_length(np.zeros((1, 3), "float32")))).all()


def test_the_candidate_that_is_nearest_to_the_text_is_returned() -> None:
    prior, condition = made(), conditions(8)
    noise = noise_of(prior, 8, candidates=3)
    alone = [
        generate(prior, condition, {f"{name}0": noise[f"{name}{i}"] for name in ("start", "steps")}, candidates=1)
        for i in range(3)
    ]  # (K, B, D)
    products = np.sum(np.stack(alone) * ops.convert_to_numpy(condition["pooled"]), axis=-1)  # (K, B)
    best = products.argmax(axis=0)
    assert len(set(best.tolist())) > 1  # none of the candidates is always the best
    expected = np.stack(alone)[best, np.arange(8)]
    np.testing.assert_allclose(generate(prior, condition, noise, candidates=3), expected, atol=1e-5)
    many = noise_of(prior, 8, candidates=11)
    assert generate(prior, condition, many, candidates=11).shape == (8, 6)
    selected = nearest_to_text(ops.convert_to_tensor(np.stack(alone)), condition["pooled"])
    np.testing.assert_array_equal(ops.convert_to_numpy(selected), expected)


def test_a_guidance_of_one_is_none() -> None:
    prior, condition = made(), conditions(3)
    noise = noise_of(prior, 3)
    plain = generate(prior, condition, noise)
    np.testing.assert_allclose(generate(prior, condition, noise, guidance=ops.convert_to_tensor(1.0)), plain, atol=1e-5)
    assert np.abs(generate(prior, condition, noise, guidance=4.0) - plain).max() > 1e-3


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="eta is an option of samplers 'ddim'"):
        made().noise_spec(eta=0.5)


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(SpaceError, match=r"not 8x8x3 continuous.*choose the decoder 'unclip/decoder'"):
        Prior(Space("continuous", (8, 8, 3)), CONDITIONS)
    with pytest.raises(SpaceError, match="have 6 numbers, and 'pooled' of the encoder has 10: use 'clip/clip'"):
        Prior(SPACE, ConditionSpace(4, 10))
    with pytest.raises(SpaceError, match="network 'causal' works on vectors"):
        Diffusion(Space("continuous", (8, 8, 3)), CONDITIONS, network=TINY)
    with pytest.raises(ValueError, match="16 is not divisible into 3 heads"):
        CausalTransformer(width=16, heads=3)
