"""Decoders in a row."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres.cascade import Cascade

from kgen import ConditionSpace, ConfigError, Space, SpaceError
from kgen.random import sample
from kgen.testing import DecoderConformance

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))
TEXT = ConditionSpace(4, 8)
REGRESSION = {"name": "superres/regression", "factor": 2, "width": 8, "blocks": 1}
DIFFUSION = {
    "name": "superres/diffusion",
    "factor": 2,
    "network": {"width": 8, "multipliers": [1], "blocks": 1, "head_dim": 8},
}


def cascade(*decoders: dict[str, Any], space: Space = SPACE) -> Cascade:
    return Cascade(space, TEXT, decoders=decoders)


class TestConformance(DecoderConformance):
    condition_space: ClassVar = TEXT
    decode_options: ClassVar = ({}, {"parts": [{}, {}]})
    replicas: ClassVar = False  # other tests cover each part

    def build(self) -> Cascade:
        return cascade(REGRESSION, REGRESSION)


@pytest.mark.slow
class TestOfDiffusion(DecoderConformance):
    condition_space: ClassVar = TEXT
    replicas: ClassVar = False
    decode_options: ClassVar = ({"parts": [{"steps": 2}]}, {"parts": [{"steps": 1, "augmentation": 0.1}, {}]})

    def build(self) -> Cascade:
        return cascade(DIFFUSION, REGRESSION)


def test_each_part_works_on_the_latents_of_the_next_one() -> None:
    made = cascade(DIFFUSION, {**REGRESSION, "factor": 4})
    assert made.latent_space == Space("continuous", (2, 2, 3))
    assert [part.image_space.shape for part in made.parts] == [(4, 4, 3), (16, 16, 3)]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    means = images.reshape(2, 2, 8, 2, 8, 3).mean((2, 4))
    np.testing.assert_allclose(ops.convert_to_numpy(made.encode(ops.convert_to_tensor(images))), means, atol=1e-5)


def test_the_steps_of_each_part_are_limited() -> None:
    """A run tries its parts with few steps first."""
    made = cascade(DIFFUSION, DIFFUSION, REGRESSION)
    given: dict[str, Any] = {"parts": ({"steps": 9, "augmentation": 0.1}, {"steps": 1})}
    first, second, third = made.limit_passes(given, 2)["parts"]
    assert (first["steps"], second["steps"]) == (2, 1) and first["augmentation"] == 0.1
    assert "steps" not in third and given["parts"][0]["steps"] == 9
    assert made.limit_passes({}, 2)["parts"][0]["steps"] == 2  # of the default


def test_a_cascade_equals_its_parts() -> None:
    made = cascade(REGRESSION, REGRESSION)
    made.build(None)
    rng = np.random.default_rng(0)
    for weight in made.trainable_weights:
        weight.assign(0.1 * rng.standard_normal(weight.shape))
    images = ops.convert_to_tensor(rng.uniform(-1, 1, (3, 16, 16, 3)).astype("float32"))
    first, second = made.parts
    losses = made.compute_losses(images, {}, training=False)
    wanted = [first.compute_losses(second.encode(images), {}, False), second.compute_losses(images, {}, False)]
    for i, part in enumerate(wanted):
        np.testing.assert_allclose(
            ops.convert_to_numpy(losses[f"part{i}_loss"]), ops.convert_to_numpy(part["loss"]), rtol=1e-5
        )
    np.testing.assert_allclose(
        ops.convert_to_numpy(losses["loss"]),
        sum(ops.convert_to_numpy(part["loss"]) for part in wanted),
        rtol=1e-5,
    )
    between = ops.clip(first.decode(made.encode(images), {}, {}), -1.0, 1.0)
    np.testing.assert_allclose(
        ops.convert_to_numpy(made.decode(made.encode(images), {}, {})),
        np.clip(ops.convert_to_numpy(second.decode(between, {}, {})), -1, 1),
        atol=1e-5,
    )


def test_parts_get_their_own_options_and_noise() -> None:
    made = cascade(DIFFUSION, REGRESSION)
    made.build(None)
    rng = np.random.default_rng(0)
    for weight in made.trainable_weights:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    text = {name: ops.ones(shape) for name, shape in (("sequence", (1, 4, 8)), ("mask", (1, 4)), ("pooled", (1, 8)))}
    latent = ops.convert_to_tensor(rng.uniform(-1, 1, (1, 4, 4, 3)).astype("float32"))

    def images(copy: int, *parts: dict[str, Any]) -> np.ndarray:
        noise = sample(made.noise_spec(parts=parts), [(0, copy)])
        given = {name: ops.convert_to_tensor(value) for name, value in noise.items()}
        return ops.convert_to_numpy(made.decode(latent, text, given, parts=parts))

    once = images(0, {"steps": 1})
    assert once.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(images(0, {"steps": 1}, {}), once)
    for other in (images(1, {"steps": 1}), images(0, {"steps": 2}), images(0, {"steps": 1, "augmentation": 0.1}, {})):
        assert np.abs(other - once).max() > 1e-4


def test_parts_measure_images_of_their_own_size() -> None:
    made = cascade(REGRESSION, REGRESSION)
    batches = [np.full((2, 16, 16, 3), 100, np.uint8)] * 2
    assert [batch.shape for batch in made._seen_by(0, batches)] == [(2, 8, 8, 3)] * 2
    assert set(made.scores(batches)) == {"Regression 1: PSNR, bicubic", "Regression 2: PSNR, bicubic"}


def test_a_latent_that_is_no_image_comes_first() -> None:
    codec = {"name": "codecs/kl-autoencoder", "network": {"width": 4, "multipliers": [1], "patch": 2}}
    pytest.importorskip("kgen_plugin_codecs")
    assert not cascade(codec, REGRESSION).latent_is_image
    with pytest.raises(SpaceError, match=r"only the first decoder .* KLAutoencoder has 8x8x4"):
        cascade(REGRESSION, codec)


def test_bad_options() -> None:
    made = cascade(REGRESSION, REGRESSION)
    with pytest.raises(ConfigError, match="3 decoders, but the cascade has 2"):
        made.noise_spec(parts=({}, {}, {}))
    with pytest.raises(ConfigError, match=r"Regression\.decode: steps"):
        made.noise_spec(parts=({"steps": 3},))
    with pytest.raises(ConfigError, match="factor"):
        cascade({**REGRESSION, "factor": 1})
    with pytest.raises(ConfigError, match="nosuch"):
        cascade({"name": "superres/nosuch"})
