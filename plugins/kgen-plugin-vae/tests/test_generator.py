"""The whole generator."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_vae.generator import VAE
from kgen_plugin_vae.networks import Network
from kgen_plugin_vae.networks.levels import soft_clamp
from kgen_plugin_vae.observations import Bernoulli, Logistic

from kgen import ConditionSpace, Space, SpaceError
from kgen.random import sample
from kgen.testing import GeneratorConformance

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("continuous", (8, 8, 3)), ConditionSpace(4, 12)
TINY = Network(width=8, multipliers=(1, 2), attention=(1,), head_dim=8)
FLAT = Network(width=8, multipliers=(1,), attention=())
EVERY = ({}, {"temperature": 0.7, "observe": "mode"}, {"observe": "sample"})


@pytest.mark.slow  # the hierarchical VAE covers all of it
class TestPlain(GeneratorConformance):
    generate_options: ClassVar = EVERY
    replicas: ClassVar = False

    def build(self) -> VAE:
        return VAE(SPACE, CONDITIONS, network=FLAT, vector=4, prior="standard")


@pytest.mark.slow
class TestLadder(GeneratorConformance):
    generate_options: ClassVar = EVERY
    likelihood_options: ClassVar = {"samples": 3}

    def build(self) -> VAE:
        return VAE(
            SPACE,
            CONDITIONS,
            network=TINY,
            observation=Logistic(components=2),
            levels=3,
            vector=4,
            channels=2,
            beta_warmup=5,
            free_bits=0.1,
        )


class TestPatches(GeneratorConformance):
    replicas: ClassVar = False

    def build(self) -> VAE:
        return VAE(SPACE, CONDITIONS, network=Network(width=8, multipliers=(1, 1), attention=(), patch=2), levels=2)


@pytest.mark.backends
class TestLatentsOfAnAutoencoder(GeneratorConformance):
    fit_fall: ClassVar = 0.05
    generate_options: ClassVar = ({"observe": "sample"},)
    replicas: ClassVar = False

    def build(self) -> VAE:
        return VAE(Space("continuous", (8, 8, 3), bounded=False), CONDITIONS, network=FLAT, vector=4)


class TestBlackAndWhite(GeneratorConformance):
    fit_fall: ClassVar = 0.05
    generate_options: ClassVar = ({"observe": "sample"},)
    replicas: ClassVar = False

    def build(self) -> VAE:
        return VAE(SPACE, CONDITIONS, network=FLAT, observation=Bernoulli(), vector=4)


# ---- beyond the conformance kit --------------------------------------------------------------------------------------


def tensors(arrays: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, arrays)


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def batch(count: int = 3) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    condition = {
        "sequence": rng.standard_normal((count, 4, 12)),
        "mask": np.ones((count, 4)),
        "pooled": rng.standard_normal((count, 12)),
    }
    x = rng.uniform(-1, 1, (count, *SPACE.shape)).astype("float32")
    return ops.convert_to_tensor(x), tensors({name: value.astype("float32") for name, value in condition.items()})


def trained(**options: Any) -> VAE:
    """Makes a VAE and changes the weights that start at 0, because they would hide mistakes."""
    keras.utils.set_random_seed(0)
    vae = VAE(SPACE, CONDITIONS, **{"network": TINY, "vector": 4, "channels": 2, **options})
    vae.compute_losses(*batch(), training=False)
    for weight in vae.trainable_variables:
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape, seed=1))
    return vae


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(SpaceError, match="multiple of 2"):
        VAE(Space("continuous", (8, 9, 3)), CONDITIONS, network=TINY)
    with pytest.raises(SpaceError, match="height, width, channels"):
        VAE(Space("continuous", (8,)), CONDITIONS, network=TINY)
    with pytest.raises(SpaceError, match="need 3 stages, but the network has 2"):
        VAE(SPACE, CONDITIONS, network=TINY, levels=4)
    with pytest.raises(ValueError, match="attention at stage 2"):
        Network(width=8, multipliers=(1, 2), attention=(2,))
    with pytest.raises(ValueError, match="head_dim"):
        Network(width=8, multipliers=(1, 2), attention=(1,), head_dim=5)


def test_the_label_of_the_bound_has_the_number_of_samples() -> None:
    vae, of_two_colors = (VAE(SPACE, CONDITIONS, network=FLAT, observation=o, vector=4) for o in (None, Bernoulli()))
    assert vae.likelihood == "lower bound" and vae.likelihood_label() == "a bound of 1 sample"
    assert vae.likelihood_label(samples=16) == "a bound of 16 samples"
    assert of_two_colors.likelihood_label() == "a bound of 1 sample, of black-and-white images"


def test_the_loss_is_the_sum_of_its_terms() -> None:
    x, condition = batch()
    losses = {name: array(value) for name, value in trained(beta=2.5).compute_losses(x, condition, True).items()}
    assert (losses["kl"] > 0).all()
    bits = (losses["reconstruction"] + 2.5 * losses["kl"]) / (math.log(2.0) * SPACE.size)
    np.testing.assert_allclose(losses["loss"], bits, rtol=1e-5)


def test_free_bits_that_are_not_used_cost_their_size() -> None:
    """Before training, the posterior equals the prior. There are 4 channels of the vector and 2 of the map."""
    vae = VAE(SPACE, CONDITIONS, network=TINY, levels=2, vector=4, channels=2, free_bits=0.5)
    losses = {name: array(value) for name, value in vae.compute_losses(*batch(), training=False).items()}
    np.testing.assert_allclose(losses["kl"], 0.0, atol=1e-6)
    cost = losses["loss"] * math.log(2.0) * SPACE.size - losses["reconstruction"]
    np.testing.assert_allclose(cost, 6 * 0.5, atol=0.01)


def test_beta_rises_with_the_steps_of_training() -> None:
    vae = trained(beta=2.0, beta_warmup=4)
    x, condition = batch()
    found = []
    for _ in range(6):
        losses = {name: array(value) for name, value in vae.compute_losses(x, condition, training=True).items()}
        nats = losses["loss"] * math.log(2.0) * SPACE.size
        found.append(((nats - losses["reconstruction"]) / losses["kl"]).mean())
        vae.compute_losses(x, condition, training=False)  # does not count
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 1.5, 2.0, 2.0], atol=0.02)
    assert int(array(vae.step)) == 6
    assert vae._beta(training=False) == 2.0


@pytest.mark.parametrize(("levels", "prior"), [(1, "standard"), (3, "learned")])
def test_codes_are_noise_that_reconstructs(levels: int, prior: str) -> None:
    """`encode` returns the posterior's means in the coordinates of the noise of `generate`."""
    vae = trained(levels=levels, prior=prior)
    x, condition = batch()
    codes = vae.encode(x, condition)
    assert {name: tuple(code.shape[1:]) for name, code in codes.items()} == {
        name: spec.shape for name, spec in vae.noise_spec().items()
    }
    nothing = [ops.zeros_like(code) for code in codes.values()]
    wanted, _ = vae.top_down(nothing, condition, vae.bottom_up(x, condition))
    np.testing.assert_allclose(
        array(vae.generate(condition, condition, codes)), array(Logistic().mean(wanted)), atol=1e-5
    )


def test_every_level_matters_and_temperature_scales_it() -> None:
    vae = trained(levels=3)
    _, condition = batch()
    noise = tensors(sample(vae.noise_spec(), [(0, copy) for copy in range(3)]))
    image = array(vae.generate(condition, condition, noise))
    for name in noise:
        other = array(vae.generate(condition, condition, {**noise, name: noise[name] + 1.0}))
        assert np.abs(other - image).reshape(3, -1).max(1).min() > 1e-4, name
    cool = array(vae.generate(condition, condition, noise, temperature=0.5))
    half = array(vae.generate(condition, condition, {name: 0.5 * value for name, value in noise.items()}))
    np.testing.assert_allclose(cool, half, atol=1e-6)


def test_maps_are_at_increasingly_fine_stages() -> None:
    vae = VAE(Space("continuous", (32, 16, 3)), CONDITIONS, network=Network(), levels=4, vector=5, channels=2)
    assert vae.latent_shapes == ((5,), (4, 2, 2), (8, 4, 2), (16, 8, 2))


def test_masked_words_are_not_read() -> None:
    vae = trained()
    x, condition = batch()
    condition["mask"] = ops.convert_to_tensor(np.array([[1, 1, 0, 0]] * 3, "float32"))
    hidden = np.array(array(condition["sequence"]))
    hidden[:, 2:] = 9.0
    masked = {**condition, "sequence": ops.convert_to_tensor(hidden)}
    seen = {**condition, "mask": ops.ones((3, 4))}
    likelihood, same, other = (array(vae.log_likelihood(x, c)) for c in (condition, masked, seen))
    np.testing.assert_allclose(same, likelihood, rtol=1e-6)
    assert np.abs(other - likelihood).min() > 1e-4


def test_logarithms_of_deviations_are_bounded() -> None:
    np.testing.assert_allclose(array(soft_clamp(ops.convert_to_tensor([-1e3, 0.1, 1e3]))), [-5, 0.1, 5], atol=1e-4)
