"""The whole generator."""

from __future__ import annotations

import re
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.networks import DiT, UNet
from kgen_plugin_diffusion.times import LogitNormal, LogNormal, Uniform

import kgen
from kgen import ConditionSpace, Space, SpaceError
from kgen.pipeline.levels import recording
from kgen.plugins.discovery import registry
from kgen.previews import showing
from kgen.random import sample
from kgen.testing import GeneratorConformance, gradients
from kgen.testing.execution import arrays, evaluate, perturb, rows, tensors
from kgen.testing.inputs import random_conditions
from kgen.testing.losses import check_gradients

pytestmark = pytest.mark.portable

SAMPLERS = {
    component.name: kgen.part("diffusion.sampler", component.name)
    for component in registry().of_kind("diffusion.sampler")
}

SPACE, CONDITIONS = Space("continuous", (8, 8, 3)), ConditionSpace(4, 12)
TINY_DIT = DiT(patch=4, width=16, depth=1, heads=2)
TINY_UNET = UNet(width=8, multipliers=(1,), blocks=1, attention=(), head_dim=8)  # the middle has attention


@pytest.mark.backends
class TestFlowMatching(GeneratorConformance):
    likelihood_options: ClassVar = {"steps": 3}
    generate_options: ClassVar = (
        *({"sampler": name, "steps": 3} for name in ("ddpm", "heun", "dpm++2m")),  # test_samplers has them all
        {"sampler": "ddim", "steps": 2, "eta": 0.5, "guidance": 3.0},
        {"steps": 1, "guidance": 4.0, "guidance_rescale": 0.7, "dynamic_threshold": 0.9, "spacing": "quadratic"},
    )

    def build(self) -> Diffusion:
        return Diffusion(SPACE, CONDITIONS, network=TINY_DIT)


class TestDDPM(GeneratorConformance):
    likelihood_options: ClassVar = {"steps": 3}
    generate_options: ClassVar = (
        {"sampler": "ddpm", "steps": 3},
        {"sampler": {"kind": "unipc", "order": 3}, "steps": 4, "spacing": {"kind": "karras", "rho": 5.0}},
        {"sampler": "dpm++2m-sde", "steps": 3, "eta": 0.5, "spacing": "trailing"},
        {"sampler": {"kind": "heun", "churn": 1.0}, "steps": 3},
    )
    replicas: ClassVar = False

    def build(self) -> Diffusion:
        network = DiT(patch=2, width=16, depth=1, heads=2)  # wider than the 12 values of a patch
        return Diffusion(SPACE, CONDITIONS, network=network, schedule="linear", prediction="eps", times=Uniform())


class TestEDM(GeneratorConformance):
    likelihood_options: ClassVar = {"steps": 3}
    generate_options: ClassVar = ({"sampler": "heun", "steps": 3}, {"sampler": "dpm++2m", "steps": 3})
    replicas: ClassVar = False

    def build(self) -> Diffusion:
        return Diffusion(SPACE, CONDITIONS, network=TINY_DIT, schedule="karras", prediction="edm", times=LogNormal())


@pytest.mark.slow  # test_maths tests the weights of the loss
class TestMinSNR(GeneratorConformance):
    likelihood_options: ClassVar = {"steps": 3}
    generate_options: ClassVar = ({"sampler": "euler-ancestral", "steps": 3},)
    replicas: ClassVar = False

    def build(self) -> Diffusion:
        return Diffusion(
            SPACE,
            CONDITIONS,
            network=TINY_DIT,
            schedule="cosine",
            prediction="v",
            weighting="min-snr",
            times=LogitNormal(),
        )


@pytest.mark.parametrize("network", [TINY_DIT, TINY_UNET])
def test_a_text_of_one_position_needs_no_queries(network: DiT | UNet) -> None:
    """All weights have a gradient, and the output depends on the text."""
    keras.utils.set_random_seed(0)
    text = ConditionSpace(1, 12)
    generator = Diffusion(SPACE, text, network=network)
    layer = generator.model
    x, level = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype("float32"), np.full(3, 300.0, "float32")
    one, other = (tensors(random_conditions(text, 3, seed)) for seed in (0, 1))
    given = tensors({"x": x, "level": level})
    layer(given["x"], given["level"], one)
    perturb(layer)
    check_gradients(gradients(layer, lambda: ops.mean(layer(given["x"], given["level"], one) ** 2)))
    other["pooled"] = one["pooled"]
    outputs = [ops.convert_to_numpy(layer(given["x"], given["level"], text)) for text in (one, other)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_the_losses_by_level_are_those_of_the_examples_at_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uniform, "sample", lambda self, count, seed: ops.arange(count, dtype="float32") / count)
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT, times=Uniform())
    with recording() as recorded:
        losses = generator.compute_losses(np.zeros((4, 8, 8, 3), np.float32), random_conditions(CONDITIONS, 4, 0), True)
    ((levels, values),) = recorded
    np.testing.assert_allclose(ops.convert_to_numpy(levels), [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(ops.convert_to_numpy(values), ops.convert_to_numpy(losses["loss"]))
    assert generator.loss_axis == kgen.LossAxis("t", 0.0, 1.0)


def test_the_label_of_the_bound_has_the_number_of_steps() -> None:
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT)
    assert generator.likelihood == "lower bound"
    assert generator.likelihood_label() == "a bound of 1000 steps"
    assert generator.likelihood_label(steps=250, end_log_snr=12.0) == "a bound of 250 steps, to a log-SNR of 12"


def test_options_without_effect_are_refused() -> None:
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT)
    with_eta = {"ddim", "dpm++2m-sde", "dpm++3m-sde"}
    for sampler in sorted(set(SAMPLERS) - with_eta):
        with pytest.raises(ValueError, match=re.escape(f"and '{sampler}' would ignore it")):
            generator.noise_spec(sampler=sampler, eta=0.5)
    with pytest.raises(ValueError, match=r"eta is an option of samplers 'ddim', .* and 'deis' would ignore it"):
        generator.noise_spec(sampler=SAMPLERS["deis"], eta=0.5)
    for sampler in with_eta:
        generator.noise_spec(sampler=sampler, eta=0.5)
    generator.noise_spec(sampler="heun", eta=0.0)
    with pytest.raises(ValueError, match="guidance_rescale"):
        generator.noise_spec(guidance_rescale=0.7)
    with pytest.raises(ValueError, match="gamma is an option of weighting 'min-snr'"):
        Diffusion(SPACE, CONDITIONS, network=TINY_DIT, gamma=3.0)
    pure_noise = {"kind": "discrete", "zero_terminal_snr": True}
    for schedule in (pure_noise, "rectified-flow", "shifted-flow"):
        with pytest.raises(ValueError, match="prediction 'eps' says nothing about the image at time 1"):
            Diffusion(SPACE, CONDITIONS, network=TINY_DIT, schedule=schedule, prediction="eps")
    Diffusion(SPACE, CONDITIONS, network=TINY_DIT, schedule=pure_noise, prediction="v")
    with pytest.raises(ValueError, match="sigma_data is an option of prediction 'edm'"):
        Diffusion(SPACE, CONDITIONS, network=TINY_DIT, sigma_data=1.0)


def test_steps_that_a_spacing_does_not_have_are_refused_before_the_sampling() -> None:
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT)
    generator.noise_spec(steps=1000, spacing="leading")
    generator.noise_spec(steps=1001)
    with pytest.raises(ValueError, match="steps: 1001 does not fit into the 1000 discrete times"):
        generator.noise_spec(steps=1001, spacing="leading")
    with pytest.raises(ValueError, match="steps: 20 does not fit into the 1000 discrete times"):
        generator.noise_spec(spacing=kgen.part("diffusion.spacing", {"kind": "leading", "offset": 900}))


@pytest.mark.parametrize(
    ("schedule", "deviation", "strength"),
    [("rectified-flow", 1.0, (0.25, 0.75)), ("discrete", 1.0, None), ("karras", 80.0, None)],
)
def test_sampling_starts_from_noise_or_from_a_noisy_image(
    schedule: str, deviation: float, strength: tuple[float, float] | None
) -> None:
    """Without steps: noise of the first level, or of N(0, I) for a discrete schedule; or image and noise."""
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT, schedule=schedule)
    noise = {name: ops.convert_to_tensor(array) for name, array in sample(generator.noise_spec(), [(0, 0)]).items()}

    def start(source: object = None) -> np.ndarray:
        made = generator.generate({}, {}, noise, source, steps=2, sampler=lambda d, x, grid, fresh: x, strength=0.25)
        return np.asarray(ops.convert_to_numpy(made))

    eps = np.asarray(ops.convert_to_numpy(noise["start"]))
    np.testing.assert_allclose(start(), deviation * eps, rtol=1e-5)
    if strength is not None:
        image = np.random.default_rng(0).standard_normal(eps.shape).astype("float32")
        expected = strength[0] * eps + strength[1] * image
        np.testing.assert_allclose(start(ops.convert_to_tensor(image)), expected, atol=1e-5)


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(SpaceError, match="multiple of 4"):
        Diffusion(Space("continuous", (10, 8, 3)), CONDITIONS, network=TINY_DIT)
    with pytest.raises(SpaceError, match="height, width, channels"):
        Diffusion(Space("continuous", (8,)), CONDITIONS, network=TINY_DIT)
    with pytest.raises(ValueError, match="log-normal"):
        Diffusion(SPACE, CONDITIONS, network=TINY_DIT, times=LogNormal())


def test_a_unet_generates_the_same_image_alone_and_in_a_batch_of_8() -> None:
    """The conformance kit tests all samplers with a DiT."""
    keras.utils.set_random_seed(0)
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_UNET)
    rng = np.random.default_rng(0)
    condition = {
        "sequence": rng.standard_normal((8, 4, 12)).astype("float32"),
        "mask": np.ones((8, 4), "float32"),
        "pooled": rng.standard_normal((8, 12)).astype("float32"),
    }
    generator.compute_losses(ops.zeros((8, *SPACE.shape)), tensors(condition), training=False)
    for weight in generator.trainable_variables:  # the output layer begins at zero
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape, seed=1))
    noise = sample(generator.noise_spec(), [(3, copy) for copy in range(8)])
    null = {name: np.zeros_like(value) + (name == "mask") for name, value in condition.items()}

    def generated(index: slice) -> np.ndarray:
        given = rows([condition, null, noise], index)
        return arrays(evaluate(generator, lambda g: generator.generate(*g, steps=2, guidance=2.0), given))

    together = generated(slice(0, 8))
    np.testing.assert_allclose(generated(slice(5, 6))[0], together[5], atol=1e-4)
    assert together.std() > 0.05


def test_guidance_of_one_is_no_guidance() -> None:
    keras.utils.set_random_seed(0)
    generator = Diffusion(SPACE, CONDITIONS, network=TINY_DIT)
    ones = {"sequence": ops.ones((1, 4, 12)), "mask": ops.ones((1, 4)), "pooled": ops.ones((1, 12))}
    generator.compute_losses(ops.zeros((1, *SPACE.shape)), ones, training=False)
    for weight in generator.trainable_variables:
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape, seed=1))
    zeros = {**ones, "sequence": ops.zeros((1, 4, 12)), "pooled": ops.zeros((1, 12))}
    noise = tensors(sample(generator.noise_spec(), [(0, 0)]))

    def generated(guidance: float) -> np.ndarray:
        x = generator.generate(ones, zeros, noise, steps=3, sampler="euler", guidance=guidance)
        return np.asarray(ops.convert_to_numpy(x))

    np.testing.assert_allclose(generated(1.0), generated(1.0 + 1e-6), atol=1e-4)
    assert np.abs(generated(1.0) - generated(4.0)).max() > 1e-3


def test_the_last_step_of_ddim_shows_the_latents_that_it_returns() -> None:
    model = Diffusion(SPACE, CONDITIONS, network=TINY_DIT)
    given, noise = tensors(random_conditions(CONDITIONS, 2, 0)), sample(model.noise_spec(), [(0, 0), (0, 1)])
    options, shown = {"sampler": "ddim", "steps": 3, "guidance": 2.0}, []
    model.generate(given, given, tensors(noise), **options)  # creates the weights
    perturb(model)
    plain = arrays(model.generate(given, given, tensors(noise), **options))
    with showing(shown.append):
        made = arrays(model.generate(given, given, tensors(noise), **options))
    np.testing.assert_array_equal(made, plain)
    np.testing.assert_allclose(arrays(shown[-1]), made, atol=1e-6)
    assert len(shown) == 3 and np.abs(arrays(shown[0]) - made).max() > 1e-3
