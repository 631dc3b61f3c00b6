"""Classifier-free guidance and autoguidance, also in an interval of noise levels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.guidance import is_inside, noise_level
from kgen_plugin_diffusion.networks import DiT
from kgen_plugin_diffusion.samplers import time_grid

import kgen
from kgen.random import sample
from kgen.testing.execution import Program, as_arrays, perturb

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = kgen.Space("continuous", (2, 2, 1), bounded=False), kgen.ConditionSpace(1, 4)
TINY = DiT(patch=2, width=4, depth=1, heads=1)
NARROW, WIDE, WIDER = 0.3, 0.8, 1.2
EVERYWHERE, NOWHERE = (0.0, math.inf), (1e4, 1e6)


class Ideal(Diffusion):
    """Denoises images of independent normal values perfectly. Their standard deviation is the "pooled" condition."""

    def _network(self, x: Any, alpha: Any, sigma: Any, level: Any, condition: Any, training: bool = False) -> Any:
        spread = ops.reshape(condition["pooled"][:, 0], (-1, 1, 1, 1))
        image = alpha * spread**2 * x / ((alpha * spread) ** 2 + sigma**2)
        return self._prediction.target(image, (x - alpha * image) / sigma, alpha, sigma, self._sigma_data)


def conditions(spread: float) -> dict[str, np.ndarray]:
    return {
        "sequence": np.zeros((1, 1, 4), np.float32),
        "mask": np.ones((1, 1), np.float32),
        "pooled": np.full((1, 4), spread, np.float32),
    }


def gain(top: float, interval: tuple[float, float], weights: dict[float, float]) -> float:
    """The factor from x / alpha at the noise level `top` to the sample, on the probability flow with ideal denoisers.

    For images with a standard deviation of s, x / alpha is proportional to sqrt(s^2 + level^2). With guidance, the
    logarithms of such factors are combined linearly, like the denoised images.

    Args:
        top: Highest noise level.
        interval: Noise levels with guidance, away from denoisers for other standard deviations.
        weights: The weight of the guidance by each of them.
    """
    low, high = (min(end, top) for end in interval)

    def between(s: float, start: float, end: float) -> float:
        return math.sqrt((s * s + end * end) / (s * s + start * start))

    inside = between(NARROW, high, low)
    for s, weight in weights.items():
        inside *= (between(NARROW, high, low) / between(s, high, low)) ** (weight - 1)
    return between(NARROW, top, high) * inside * between(NARROW, low, 0.0)


@pytest.mark.backends
@pytest.mark.parametrize("schedule", ["karras", "rectified-flow"])
def test_guidance_has_its_closed_form(schedule: str) -> None:
    """By the text, by another model with another prediction, and by both. One program serves all their numbers."""
    generator = Ideal(SPACE, CONDITIONS, network=TINY, schedule=schedule, prediction="x0")
    other = Ideal(SPACE, CONDITIONS, network=TINY, schedule=schedule, prediction="velocity")
    noise = sample(generator.noise_spec(), [(3, 0)])
    arrays = {"condition": conditions(NARROW), "null_condition": conditions(WIDE), "noise": noise}

    def generate(batch: Any) -> Any:
        guide = kgen.GuideModel(other, batch["guide"])
        return generator.generate(**batch["arrays"], **batch["numbers"], guide=guide, steps=200, spacing="quadratic")

    program = Program(generator, generate)
    grid = time_grid(kgen.part("diffusion.schedule", schedule), 200, "quadratic")
    top = min(float(ops.convert_to_numpy(noise_level(grid.alpha, grid.sigma))[0]), 1e6)
    for guidance, autoguidance, interval in (
        (3.0, 1.0, EVERYWHERE),
        (3.0, 2.0, NOWHERE),
        (3.0, 1.0, (0.1, 1.0)),
        (0.0, 1.0, (0.5, 4.0)),
        (1.0, 2.5, EVERYWHERE),
        (1.0, 2.5, (0.2, math.inf)),
        (1.5, 2.0, (0.1, 4.0)),
    ):
        numbers = {"guidance": guidance, "autoguidance": autoguidance, "guidance_interval": interval}
        made = program({"arrays": arrays, "guide": conditions(WIDER), "numbers": as_arrays(numbers)})
        wanted = noise["start"] * top * gain(top, interval, {WIDE: guidance, WIDER: autoguidance})
        np.testing.assert_allclose(made, wanted, rtol=0.04, err_msg=str(numbers))


@pytest.mark.parametrize("name", ["linear", "cosine", "rectified-flow", "karras"])
def test_noise_levels_are_noise_per_image(name: str) -> None:
    schedule = kgen.part("diffusion.schedule", name)
    t = ops.convert_to_tensor(np.linspace(0.01, 0.9, 7).astype("float32"))
    level = ops.convert_to_numpy(noise_level(schedule.alpha(t), schedule.sigma(t)))
    np.testing.assert_allclose(2 * np.log(level), -ops.convert_to_numpy(schedule.log_snr(t)), atol=1e-3)


def test_the_interval_is_open_below_and_closed_above() -> None:
    def inside(alpha: float, sigma: float, interval: tuple[float, float]) -> bool:
        given = (ops.convert_to_tensor(np.float32(value)) for value in (alpha, sigma))
        return bool(ops.convert_to_numpy(is_inside(interval, *given)))

    assert not inside(0.5, 0.5, (1.0, 2.0)) and inside(0.25, 0.5, (1.0, 2.0)) and not inside(0.2, 0.5, (1.0, 2.0))
    assert inside(0.0, 1.0, (1.0, math.inf)) and not inside(0.0, 1.0, (1.0, 1e9))  # noise without an image


class Hashed(kgen.Encoder):
    """Encodes each text as a random vector that depends on the text alone."""

    @property
    def condition_space(self) -> kgen.ConditionSpace:
        return kgen.ConditionSpace(1, 8)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in texts]
        return {"vector": np.stack(rows).astype(np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        vector = tokens["vector"]
        return {"sequence": vector[:, None], "mask": ops.ones_like(vector[:, :1]), "pooled": vector}


def pipeline(width: int = 8, **options: Any) -> kgen.Pipeline:
    """A pipeline whose denoised images depend on the noise level and on the prompt."""
    keras.utils.set_random_seed(0)
    space, encoder = kgen.Space("continuous", (4, 4, 1)), Hashed()
    network = DiT(patch=2, width=width, depth=1, heads=2)
    generator = Diffusion(space, encoder.condition_space, network=network, **options)
    made = kgen.assemble(encoder=encoder, generator=generator, image_space=space)
    perturb(made.generator, 0.3)
    return made


@pytest.mark.slow
@pytest.mark.backends
def test_all_noise_levels_are_plain_guidance_and_none_are_no_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with `guidance_rescale`. A new interval compiles nothing, and outside of it there is one pass."""
    made, passes = pipeline(), []
    denoised = Diffusion._denoised
    monkeypatch.setattr(Diffusion, "_denoised", lambda self, x, *a: passes.append(x.shape[0]) or denoised(self, x, *a))
    options = {"sampler": "euler", "steps": 4, "n": 2, "output": "latents", "guidance": 3.0, "guidance_rescale": 0.7}
    plain = made.generate("red", **options)
    alone = made.generate("red", sampler="euler", steps=4, n=2, output="latents")
    everywhere = made.generate("red", **options, guidance_interval=EVERYWHERE)
    traced = len(passes)
    nowhere = made.generate("red", **options, guidance_interval=NOWHERE)
    ran = passes[traced:]
    some = [made.generate("red", **options, guidance_interval=(low, 2.5)) for low in (0.1, 0.2, 1.5)]
    np.testing.assert_allclose(everywhere, plain, atol=1e-6)
    np.testing.assert_allclose(nowhere, alone, atol=1e-6)
    assert np.abs(plain - alone).max() > 0.01
    np.testing.assert_array_equal(some[0], some[1])  # no noise level of the 4 steps is between
    assert np.abs(some[0] - some[2]).max() > 1e-3 and np.abs(some[0] - plain).max() > 1e-3
    assert len(made.programs) == 3
    if keras.backend.backend() == "torch":  # it runs the function at each step
        assert ran == [2] * 4
    else:
        assert len(passes) == traced
    weight_1 = made.generate("red", **{**options, "guidance": 1.0}, guidance_interval=(0.1, 2.5))
    np.testing.assert_array_equal(weight_1, alone)


@pytest.mark.slow
@pytest.mark.backends
def test_a_guide_leads_away_from_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A weight of 1, or the model itself, has no effect. New weights and intervals compile nothing."""
    made, smaller = pipeline(), pipeline(4)
    options = {"sampler": "euler", "steps": 3, "output": "latents"}
    alone, weights = made.generate("red", **options), len(made.weights)
    twin = made.generate("red", **options, guide=pipeline(), autoguidance=3.0)
    without = made.generate("red", **options, guide=smaller, autoguidance=1.0)
    np.testing.assert_allclose(twin, alone, atol=1e-5)
    np.testing.assert_allclose(without, alone, atol=1e-6)
    guided = made.generate("red", **options, guide=smaller, autoguidance=2.0, guidance_interval=EVERYWHERE)
    other = smaller.generate("red", **options)
    assert np.abs(guided - alone).max() > 0.01 and np.abs(guided - other).max() > 0.01
    passes = []
    denoised = Diffusion._denoised
    monkeypatch.setattr(Diffusion, "_denoised", lambda self, x, *a: passes.append(1) or denoised(self, x, *a))
    assert (
        np.abs(
            made.generate("red", **options, guide=smaller, autoguidance=3.0, guidance_interval=(0.1, 1.5)) - guided
        ).max()
        > 1e-3
    )
    assert not passes or keras.backend.backend() == "torch"
    assert len(made.weights) == weights and len(made.programs) == 4
    made.save(tmp_path / "saved")
    assert not [name for name in kgen.weight_paths(made) if "guide" in name]
    smaller.generator.model.weights[0].assign(np.nan * smaller.generator.model.weights[0])
    with pytest.raises(kgen.RunError, match="the weights of the guide's generator Diffusion contain NaN"):
        made.generate("red", **options, guide=smaller, autoguidance=2.0, guidance_interval=EVERYWHERE)


def test_a_guide_and_its_weight_need_each_other() -> None:
    made = pipeline()
    with pytest.raises(kgen.ConfigError, match="guide has no effect alone: add autoguidance: 2"):
        made.generate("red", guide=pipeline())
    with pytest.raises(kgen.ConfigError, match="autoguidance has no effect alone: add guide"):
        made.generate("red", autoguidance=2.0)
    with pytest.raises(kgen.ConfigError, match="it has the noise schedule cosine, not rectified-flow"):
        made.generate("red", guide=pipeline(schedule="cosine"), autoguidance=2.0)
    with pytest.raises(kgen.ConfigError, match=r"spacing: Diffusion.generate takes no pipeline"):
        made.generate("red", spacing=pipeline())


def test_an_interval_that_cannot_be_used_is_refused() -> None:
    made = pipeline()
    with pytest.raises(kgen.ConfigError, match="guidance_interval has no effect without guidance: set guidance"):
        made.generate("red", guidance_interval=(0.1, 2.0))
    for wrong, message in (
        ((2.0, 0.1), r"guidance_interval: must be \[low, high\] with low < high, got \[2, 0.1\]"),
        ((-1.0, 2.0), "greater than or equal to 0"),
        ((1.0,), "guidance_interval"),
        (3.0, "guidance_interval: must be a list, got 3.0"),
    ):
        with pytest.raises(kgen.ConfigError, match=message):
            made.generate("red", guidance=2.0, guidance_interval=wrong)


def test_an_interval_without_an_upper_end_is_written_in_yaml() -> None:
    decoder = type(pipeline().decoder)
    options = kgen.sampling_options(["guidance=2", "guidance_interval=[0.2, null]"], Diffusion, decoder)
    made = pipeline()
    open_above = made.generate("red", sampler="euler", steps=2, **options)
    options["guidance_interval"] = (0.2, math.inf)
    np.testing.assert_array_equal(made.generate("red", sampler="euler", steps=2, **options), open_above)
