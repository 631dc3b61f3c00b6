"""The whole generator."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_realnvp.couplings import Convolutional, Transformer
from kgen_plugin_realnvp.generator import RealNVP

from kgen import ConditionSpace, ConfigError, Space, SpaceError
from kgen.backend.precision import precision
from kgen.pipeline.sampler import validate_options
from kgen.random import normal, uniform
from kgen.testing import GeneratorConformance, gradients
from kgen.testing.losses import check_gradients

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("continuous", (8, 8, 3)), ConditionSpace(4, 12)
TINY_CONVOLUTIONAL = Convolutional(scales=2, couplings=2, width=8, text_heads=2)
TINY_TRANSFORMER = Transformer(patch=4, couplings=6, width=8, heads=2, text_heads=2)
KINDS = (
    {"coupling": TINY_CONVOLUTIONAL},
    {"coupling": TINY_TRANSFORMER, "dequantization": "variational"},
    {"coupling": TINY_TRANSFORMER, "dequantization": "none"},
)


@pytest.mark.slow  # test_bijections inverts and measures its couplings; below, each weight has a gradient
class TestConvolutional(GeneratorConformance):
    fit_steps: ClassVar = 40
    generate_options: ClassVar = ({}, {"temperature": 0.7})
    replicas: ClassVar = False

    def build(self) -> RealNVP:
        coupling = Convolutional(scales=1, couplings=2, width=8)
        return RealNVP(SPACE, CONDITIONS, coupling=coupling, dequantization="none")


@pytest.mark.slow
class TestVariational(GeneratorConformance):
    fit_steps: ClassVar = 40
    likelihood_options: ClassVar = {"samples": 2}
    replicas: ClassVar = False

    def build(self) -> RealNVP:
        coupling = Transformer(patch=4, couplings=2, width=8, heads=2)
        return RealNVP(SPACE, CONDITIONS, coupling=coupling, dequantization="variational")


@pytest.mark.backends
class TestTransformer(GeneratorConformance):
    fit_steps: ClassVar = 40

    def build(self) -> RealNVP:
        return RealNVP(SPACE, CONDITIONS, coupling=Transformer(patch=4, couplings=2, width=8, heads=2, text_heads=2))


# ---- beyond the conformance kit --------------------------------------------------------------------------------------


def images(count: int, shape: tuple[int, ...] = SPACE.shape) -> np.ndarray:
    """8-bit images, black and white included, as numbers in [-1, 1]."""
    levels = np.random.default_rng(0).integers(0, 256, (count, *shape))
    levels[0, 0, 0, 0], levels[-1, 0, 0, 0] = 0, 255
    return (levels / 127.5 - 1.0).astype("float32")


def generator(randomize: Any, space: Space = SPACE, scale: float = 0.1, **options: Any) -> RealNVP:
    """Makes a generator and changes the weights that start at 0, because they would hide mistakes."""
    made = RealNVP(space, CONDITIONS, **options)
    randomize(made, scale)
    return made


def test_every_weight_of_two_scales_has_a_gradient(randomize, condition_of) -> None:
    """The weights of channels that are factored out, and those of the next scale."""
    flow, condition = generator(randomize, coupling=TINY_CONVOLUTIONAL), condition_of(3)
    x = ops.convert_to_tensor(images(3))
    check_gradients(gradients(flow, lambda: ops.mean(flow.compute_losses(x, condition, training=False)["loss"])))


def test_variational_dequantization_learns_of_any_images(randomize, condition_of) -> None:
    """The conformance kit's tests of losses. Other tests cover the dequantizer's densities and bounds."""
    options = {"coupling": Transformer(patch=4, couplings=2, width=8, heads=2), "dequantization": "variational"}
    flow, condition = generator(randomize, **options), condition_of(3)
    for x in (images(3), np.full((3, *SPACE.shape), -1.0), np.full((3, *SPACE.shape), 1.0)):
        given = ops.convert_to_tensor(x.astype("float32"))
        check_gradients(
            gradients(flow, lambda given=given: ops.mean(flow.compute_losses(given, condition, True)["loss"]))
        )
    with precision("mixed_bfloat16"):
        loss = generator(randomize, **options).compute_losses(given, condition, True)["loss"]
    assert np.isfinite(ops.convert_to_numpy(loss)).all() and keras.backend.standardize_dtype(loss.dtype) == "float32"


@pytest.mark.parametrize("options", KINDS)
def test_images_and_codes_are_converted_into_each_other(options, randomize, condition_of, array) -> None:
    flow, condition, x = generator(randomize, scale=0.05, **options), condition_of(3), images(3)
    codes = flow.encode(ops.convert_to_tensor(x), condition)
    assert {name: tuple(code.shape[1:]) for name, code in codes.items()} == {
        name: spec.shape for name, spec in flow.noise_spec().items()
    }
    np.testing.assert_allclose(array(flow.generate(condition, condition, codes)), x, rtol=0, atol=1e-4)
    if options.get("dequantization") == "none":  # clipping pixels would lose their noise
        z = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
        made = flow.generate(condition, condition, {"latent": ops.convert_to_tensor(z)})
        np.testing.assert_allclose(array(flow.encode(made, condition)["latent"]), z, rtol=0, atol=1e-4)


def test_temperature_scales_the_noise(randomize, condition_of, array) -> None:
    flow, condition = generator(randomize, coupling=TINY_TRANSFORMER), condition_of(2)
    z = np.random.default_rng(0).standard_normal((2, *SPACE.shape)).astype("float32")
    cool = flow.generate(condition, condition, {"latent": ops.convert_to_tensor(z)}, temperature=0.5)
    half = flow.generate(condition, condition, {"latent": ops.convert_to_tensor(0.5 * z)})
    np.testing.assert_allclose(array(cool), array(half), atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperatures_of_0_or_less_are_refused(temperature: float) -> None:
    flow = RealNVP(SPACE, CONDITIONS, coupling=TINY_TRANSFORMER)
    with pytest.raises(ConfigError, match=r"RealNVP.generate: temperature: must be greater than 0"):
        validate_options(flow, "generate", {"temperature": temperature})
    with pytest.raises(ConfigError, match=r"guidance: unknown key \(RealNVP.generate takes: temperature\)"):
        validate_options(flow, "generate", {"guidance": 2.0})


def test_spaces_that_do_not_fit_are_named() -> None:
    def on(*shape: int, coupling: Any = TINY_CONVOLUTIONAL) -> None:
        RealNVP(Space("continuous", shape), CONDITIONS, coupling=coupling)

    three = Convolutional(scales=3, couplings=2, width=8)
    with pytest.raises(SpaceError, match=r"3 scales .* 12x8, which can be halved 2 times: use at most 2 .* of 8"):
        on(12, 8, 3, coupling=three)
    with pytest.raises(SpaceError, match="can be halved 0 times: use an image of even height and width"):
        on(8, 7, 3)
    with pytest.raises(SpaceError, match="height, width, channels"):
        on(8)
    with pytest.raises(SpaceError, match="multiple of 4"):
        on(8, 10, 3, coupling=TINY_TRANSFORMER)
    with pytest.raises(SpaceError, match="two dimensions or more"):
        on(4, 4, 1, coupling=Transformer(patch=4)) or on(1, 1, 1, coupling=Transformer(patch=1))
    with pytest.raises(ValueError, match="not divisible into 3 text_heads"):
        Convolutional(width=8, text_heads=3)
    with pytest.raises(ValueError, match="not divisible into 3 heads"):
        Transformer(width=8, heads=3)
    on(4, 8, 3, coupling=Convolutional(scales=2, couplings=2, width=8))  # as often as possible


def test_the_loss_is_the_sum_of_its_terms(randomize, condition_of, array) -> None:
    x, condition = ops.convert_to_tensor(images(3)), condition_of(3)
    flow = generator(randomize, **KINDS[2])
    losses = {name: array(value) for name, value in flow.compute_losses(x, condition, False).items()}
    np.testing.assert_allclose(losses["loss"], losses["prior"] - losses["log_det"], rtol=1e-5)
    np.testing.assert_array_equal(losses["loss"], losses["bits_per_dimension"])
    bits = -array(flow.log_likelihood(x, condition)) / (math.log(2.0) * SPACE.size)
    np.testing.assert_allclose(losses["loss"], bits, rtol=1e-5)


@pytest.mark.parametrize(("dequantization", "sample"), [("uniform", uniform), ("variational", normal)])
def test_the_loss_is_the_bound(dequantization, sample, randomize, condition_of, array, monkeypatch) -> None:
    flow = generator(randomize, coupling=TINY_TRANSFORMER, dequantization=dequantization)
    x, condition = ops.convert_to_tensor(images(3)), condition_of(3)
    noise = array(flow._training_noise(x))
    assert noise.reshape(3, -1).std(1).min() > 0.2
    assert np.abs(np.diff(noise, axis=0)).mean() > 0.2  # each example has different noise
    keys = ops.convert_to_tensor(np.array([[0, 1912]] * 3, "int32"))
    zero = ops.convert_to_tensor(np.int32(0))
    monkeypatch.setattr(flow, "_training_noise", lambda x: sample(keys, zero, SPACE.shape))
    losses = {name: array(value) for name, value in flow.compute_losses(x, condition, False).items()}
    bits = -array(flow.log_likelihood(x, condition)) / (math.log(2.0) * SPACE.size)
    np.testing.assert_allclose(losses["loss"], bits, rtol=1e-5)


def test_statistics_are_those_of_the_first_training_batch(condition_of, array) -> None:
    """The losses of that batch do not use them, because they would mix examples. Later batches do not change them."""
    coupling = Convolutional(scales=2, couplings=2, width=8, mixing=False)
    flow, condition = RealNVP(SPACE, CONDITIONS, coupling=coupling, dequantization="none"), condition_of(16)
    x = ops.convert_to_tensor(0.2 * images(16) + 0.5)
    before = array(flow.compute_losses(x, condition, training=False)["loss"])
    assert float(array(flow.measured)) == 0.0
    np.testing.assert_allclose(array(flow.compute_losses(x, condition, training=True)["loss"]), before, rtol=1e-6)
    assert float(array(flow.measured)) == 1.0
    z = array(flow.encode(x, condition)["latent"])  # (B, 8, 8, 3); all couplings are still identities
    squeezed = z.reshape(16, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 12)[:, 6:]
    np.testing.assert_allclose(squeezed.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(squeezed.std(0), 1.0, atol=1e-3)
    statistics = [array(variable) for variable in flow.flow.statistics_variables()]
    flow.compute_losses(x * 3.0, condition, training=True)
    for variable, value in zip(flow.flow.statistics_variables(), statistics, strict=True):
        np.testing.assert_array_equal(array(variable), value)
