"""Super-resolution by diffusion."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres import process
from kgen_plugin_superres.diffusion import DiffusionUpscaler, Network

from kgen import ConditionSpace, Space, SpaceError
from kgen.previews import showing
from kgen.random import sample
from kgen.testing import DecoderConformance

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))
TEXT = ConditionSpace(4, 8)
TINY = Network(width=8, multipliers=(1, 2), blocks=1, head_dim=8)
ONE_LEVEL = Network(width=8, multipliers=(1,), blocks=1, head_dim=8)


class TestConformance(DecoderConformance):
    condition_space: ClassVar = TEXT
    decode_options: ClassVar = (
        {"steps": 1},
        {"steps": 2, "augmentation": 0.2, "dynamic_threshold": 0.9, "consistency": 0.5},
    )

    def build(self) -> DiffusionUpscaler:
        return DiffusionUpscaler(SPACE, TEXT, network=ONE_LEVEL)


def condition(count: int) -> dict[str, object]:
    shapes = {"sequence": (count, 4, 8), "mask": (count, 4), "pooled": (count, 8)}
    return {name: ops.ones(shape) for name, shape in shapes.items()}


@pytest.mark.backends
def test_an_error_of_the_image_counts_as_that_of_the_velocity() -> None:
    """At a given x_t, an error of the image implies an error of the noise, and so of the velocity."""
    rng = np.random.default_rng(0)
    x0, eps, d = rng.standard_normal((3, 5, 2, 2, 1))
    t = ops.reshape(ops.convert_to_tensor(np.linspace(0.2, 1, 5, dtype="float32")), (5, 1, 1, 1))
    alpha, sigma = (ops.convert_to_numpy(level).astype(float) for level in process.levels(t))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    x = alpha * x0 + sigma * eps
    eps_too = (x - alpha * (x0 + d)) / sigma
    off = (alpha * eps_too - sigma * (x0 + d)) - (alpha * eps - sigma * x0)
    np.testing.assert_allclose(ops.convert_to_numpy(process.weight(t)) * d**2, off**2, rtol=1e-4)
    assert float(process.weight(ops.zeros(()))) == pytest.approx(1 / 0.09, rel=1e-4)


@pytest.mark.backends
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_sampling_a_normal_distribution(steps: int) -> None:
    """With the ideal denoiser of N(m, s^2), many steps of DDIM map noise to m + s * noise, as the exact flow does."""
    mean, deviation = 0.3, 0.5
    noise = np.random.default_rng(0).standard_normal((64, 2, 2, 1)).astype("float32")

    def denoise(x, t):
        alpha, sigma = process.levels(t)
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    made = ops.convert_to_numpy(process.sample(denoise, ops.convert_to_tensor(noise), steps))
    if steps == 1:  # one step from pure noise gives the mean
        np.testing.assert_allclose(made, mean, atol=0.01)
    elif steps == 50:
        np.testing.assert_allclose(made, mean + deviation * noise, atol=0.06)
    else:
        assert made.std() < deviation


def test_the_text_and_the_noise_of_the_small_image_matter_and_each_step_is_shown() -> None:
    decoder = DiffusionUpscaler(SPACE, TEXT, network=TINY)
    decoder.build(None)
    rng = np.random.default_rng(0)
    for weight in decoder.trainable_weights:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    small = ops.zeros((1, 4, 4, 3))
    noise = {name: ops.convert_to_tensor(a) for name, a in sample(decoder.noise_spec(), [(0, 0)]).items()}

    def made(**changes) -> np.ndarray:
        given = {"steps": 2, **{k: v for k, v in changes.items() if k != "text"}}
        return ops.convert_to_numpy(decoder.decode(small, changes.get("text", condition(1)), noise, **given))

    plain, shown = made(), []
    with showing(shown.append):
        np.testing.assert_array_equal(made(), plain)
    np.testing.assert_allclose(ops.convert_to_numpy(shown[-1]), plain, atol=1e-6)
    assert len(shown) == 2 and np.abs(ops.convert_to_numpy(shown[0]) - plain).max() > 1e-3
    assert np.abs(made(augmentation=0.3) - plain).max() > 1e-3
    for name in ("sequence", "pooled"):
        other = {**condition(1), name: -2.0 * condition(1)[name]}
        assert np.abs(made(text=other) - plain).max() > 1e-4


def test_augmentation_keeps_the_variance() -> None:
    """A small image of unit variance keeps unit variance at every noise level."""
    decoder = DiffusionUpscaler(SPACE, TEXT, network=TINY)
    rng = np.random.default_rng(0)
    small, noise = (ops.convert_to_tensor(rng.standard_normal((400, 4, 4, 3)).astype("float32")) for _ in range(2))
    level = ops.convert_to_tensor(np.full(400, 0.8, "float32"))
    shrunk = ops.convert_to_numpy(decoder.encode(decoder._given(small, 0.0 * noise, 0.0 * level)))
    both = ops.convert_to_numpy(decoder.encode(decoder._given(small, noise, level)))
    assert both.std() == pytest.approx(shrunk.std(), rel=0.03)
    assert np.corrcoef(both.ravel(), shrunk.ravel())[0, 1] == pytest.approx(0.6, abs=0.02)


def test_bad_sizes() -> None:
    with pytest.raises(SpaceError, match=r"super-resolution by 3 .* 16x16"):
        DiffusionUpscaler(SPACE, TEXT, factor=3)
    with pytest.raises(SpaceError, match=r"3 levels on patches of 8 .* divisible by 32, but the images are 16x16"):
        DiffusionUpscaler(SPACE, TEXT, network=Network(patch=8))
    with pytest.raises(ValueError, match="heads of 24 do not divide"):
        Network(head_dim=24)
    with pytest.raises(ValueError, match="attention at level 3"):
        Network(attention=(3,))
