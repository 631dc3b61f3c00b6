"""The autoencoder of continuous latents."""

from __future__ import annotations

from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder
from kgen_plugin_codecs.networks import Network
from kgen_plugin_codecs.posterior import Posterior
from kgen_plugin_codecs.quantizers import FiniteScalar
from kgen_plugin_codecs.reconstruction import reconstruction_loss
from kgen_plugin_codecs.scale import Scale, moments
from kgen_plugin_codecs.vq import VQAutoencoder

from kgen import Space, SpaceError
from kgen.testing import DecoderConformance
from kgen.testing.execution import evaluate, outline

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))
TINY = Network(width=8, multipliers=(1, 2), patch=2)
RNG = np.random.default_rng(0)


class TestConformance(DecoderConformance):
    replicas: ClassVar = False  # the test with a discriminator trains on two replicas

    def build(self) -> KLAutoencoder:
        return KLAutoencoder(SPACE, channels=2, network=Network(width=8, multipliers=(1,), patch=2))


@pytest.mark.slow  # the tests of the discriminator, of VQ and of FSQ also train without attention
class TestWithoutAttention(DecoderConformance):
    replicas: ClassVar = False

    def build(self) -> KLAutoencoder:
        return KLAutoencoder(
            SPACE, network=Network(width=8, multipliers=(1, 2), patch=1, attention=False), reconstruction="l2"
        )


def random_images(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["kl", pytest.param("vq", marks=pytest.mark.slow)])
def test_images_of_another_shape_are_those_of_an_autoencoder_made_for_it(kind: str) -> None:
    def make(space: Space) -> KLAutoencoder | VQAutoencoder:
        if kind == "kl":
            return KLAutoencoder(space, channels=2, network=TINY)
        return VQAutoencoder(space, quantizer=FiniteScalar(levels=(4, 3)), network=TINY)

    here, there = SPACE, Space("continuous", (12, 20, 3))
    one, other = make(here), make(there)
    for codec in (one, other):
        codec.build(None)
    for mine, its in zip(one.weights, other.weights, strict=True):
        if "seed" not in mine.path:
            mine.assign(RNG.normal(0.1, 0.2, mine.shape))
            its.assign(mine)
    resized = one.resized(there)
    assert resized.latent_space == other.latent_space and one.latent_space.shape[:2] == (4, 4)
    images = RNG.uniform(-1, 1, (2, *there.shape)).astype(np.float32)
    latents = [evaluate(codec, codec.encode, images) for codec in (one, resized, other)]
    assert tuple(latents[0].shape) == (2, *resized.latent_space.shape)
    made = [evaluate(codec, lambda z, c=codec: c.decode(z, {}, {}), latents[0]) for codec in (one, resized, other)]
    for found in (latents, made):
        for values in found[:2]:
            np.testing.assert_allclose(ops.convert_to_numpy(values), ops.convert_to_numpy(found[2]), 1e-5, 1e-5)
    losses = outline(one, lambda x: one.compute_losses(x, {}, training=True), images)
    assert tuple(losses["loss"].shape) == (2,)
    with pytest.raises(SpaceError, match=r"factor 4 needs a height and a width divisible by it, but .* 12x18"):
        one.resized(Space("continuous", (12, 18, 3)))


def test_calibrated_latents_have_unit_variance() -> None:
    codec = KLAutoencoder(SPACE, channels=3, network=TINY)
    codec.build(None)
    batches = [random_images(16) for _ in range(4)]
    codec.calibrate(iter(batches))
    latents = ops.convert_to_numpy(codec.encode(ops.convert_to_tensor(np.concatenate(batches) / 127.5 - 1.0)))
    np.testing.assert_allclose(latents.mean((0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1, 2)), 1.0, atol=1e-3)
    scores = codec.scores(iter(batches))
    assert scores["latent mean, largest"] < 1e-3 and abs(scores["latent deviation, largest"] - 1.0) < 1e-3


def test_scaling_does_not_change_the_decoded_images() -> None:
    codec = KLAutoencoder(SPACE, network=TINY)
    codec.build(None)
    images = ops.convert_to_tensor(random_images(4) / np.float32(127.5) - np.float32(1.0))
    before = ops.convert_to_numpy(codec.decode(codec.encode(images), {}, {}))
    codec.calibrate([random_images(32)])
    after = ops.convert_to_numpy(codec.decode(codec.encode(images), {}, {}))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_moments_are_those_of_all_batches_together() -> None:
    batches = [RNG.normal(2.0, 3.0, (count, 4, 4, 2)) for count in (1, 5, 2)]
    mean, deviation = moments(batches)
    together = np.concatenate(batches)
    np.testing.assert_allclose(mean, together.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(deviation, together.std((0, 1, 2)), rtol=1e-9)


def test_scale_and_back() -> None:
    scale = Scale()
    scale.build((None, 4, 4, 2))
    z = RNG.normal(5.0, 2.0, (8, 4, 4, 2)).astype("float32")
    scale.measure([z])
    scaled = scale(ops.convert_to_tensor(z))
    assert abs(ops.convert_to_numpy(scaled).mean()) < 1e-4
    np.testing.assert_allclose(ops.convert_to_numpy(scale.undo(scaled)), z, atol=1e-5)


def test_kl_is_that_of_two_normal_distributions() -> None:
    """KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - 2 log s) / 2, by Monte Carlo (and 0.5 for N(1, 1))."""
    codec = KLAutoencoder(SPACE, channels=1, network=TINY)
    codec.build(None)
    mean, log_variance = 1.0, 0.0
    codec._posterior = lambda images: Posterior(  # type: ignore[method-assign]
        *(ops.full((ops.shape(images)[0], 4, 4, 1), value) for value in (mean, log_variance))
    )
    images = ops.convert_to_tensor(random_images(2) / np.float32(127.5) - np.float32(1.0))
    assert float(codec.compute_losses(images, {}, training=False)["kl"][0]) == pytest.approx(0.5)
    mean, log_variance = 0.3, -1.0
    z = mean + np.exp(0.5 * log_variance) * RNG.normal(size=400_000)
    sampled = np.mean(-0.5 * log_variance - 0.5 * (z - mean) ** 2 / np.exp(log_variance) + 0.5 * z**2)
    assert float(codec.compute_losses(images, {}, training=False)["kl"][1]) == pytest.approx(sampled, abs=5e-3)


@pytest.mark.parametrize("name", ["l1", "l2", "logistic"])
def test_reconstruction_losses(name: str) -> None:
    """The losses agree with numpy, and the logistic's scale with the best of many scales."""
    x, y = (RNG.uniform(-1, 1, (3, 4, 4, 3)) for _ in range(2))
    found = ops.convert_to_numpy(reconstruction_loss(name, ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
    error = np.abs(x - y)
    if name == "l1":
        np.testing.assert_allclose(found, error.mean((1, 2, 3)), rtol=1e-5)
    elif name == "l2":
        np.testing.assert_allclose(found, np.square(error).mean((1, 2, 3)), rtol=1e-5)
    else:
        scales = np.exp(np.linspace(-6, 1, 700))[:, None, None, None, None]
        z = error / scales
        best = (z + 2 * np.log1p(np.exp(-z)) + np.log(scales)).mean((2, 3, 4)).min(0)
        assert (found >= best - 1e-4).all() and (found <= best + 0.1).all()


def test_factor() -> None:
    codec = KLAutoencoder(Space("continuous", (32, 16, 1)), channels=5, network=Network(width=8, patch=2))
    assert codec.latent_space == Space("continuous", (8, 4, 5), bounded=False)
    with pytest.raises(SpaceError, match=r"factor 8 .* 20x20"):
        KLAutoencoder(Space("continuous", (20, 20, 3)), network=Network(width=8, multipliers=(1, 1, 1), patch=2))
    with pytest.raises(SpaceError, match="images"):
        KLAutoencoder(Space("continuous", (20,)))


@pytest.mark.backends
def test_calibrated_values_survive_averaging(tmp_path) -> None:
    """The measured statistics are weights that no optimizer changes."""
    codec = KLAutoencoder(SPACE, network=TINY)
    codec.build(None)
    kept = {id(w) for w in codec.inference_weights}
    assert {id(codec.scale.mean), id(codec.scale.deviation)} <= kept
    assert not {id(codec.scale.mean), id(codec.scale.deviation)} & {id(w) for w in codec.trainable_weights}
    assert keras.backend.standardize_dtype(codec.scale.mean.dtype) == "float32"


def test_stages_may_have_different_numbers_of_blocks() -> None:
    codec = KLAutoencoder(SPACE, network=Network(width=8, multipliers=(1, 2, 2), blocks=(0, 2, 1), patch=1))
    codec.build(None)
    for half in (codec.encoder_network, codec.decoder_network):
        assert [len(blocks) for blocks in half.blocks] == [0, 2, 1]
    latents = codec.encode(ops.convert_to_tensor(random_images(2).astype("float32")))
    assert latents.shape == (2, 4, 4, 4) and codec.decode(latents, {}, {}).shape == (2, 16, 16, 3)
    with pytest.raises(ValueError, match=r"blocks must be one number, or 2, like multipliers, not \[1, 0, 1\]"):
        Network(multipliers=(1, 2), blocks=(1, 0, 1))
