"""On PyTorch, sampling replays the calls of one step, and gives the same images, bit for bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.networks import DiT, UNet

from kgen import ConditionSpace, Space
from kgen.backend.gradients import no_gradients
from kgen.backend.loops import loop
from kgen.random import sample
from kgen.testing.execution import perturb
from kgen.testing.inputs import random_conditions

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="other backends compile loops"),
]

SPACE, TEXTS = Space("continuous", (8, 8, 3)), ConditionSpace(3, 8)
NETWORKS = {
    "dit": DiT(patch=4, width=16, depth=1, heads=2),
    "unet": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(1,), head_dim=8),
}
STEPS = 6
SAMPLERS = ("ddim", "ddpm", "euler", "heun", "dpm++2m", "dpm++2m-sde", "dpm++3m-sde", "deis", "lms", "pndm", "unipc")


@pytest.fixture(scope="module", params=NETWORKS)
def diffusion(request: pytest.FixtureRequest) -> Diffusion:
    keras.utils.set_random_seed(0)
    generator = Diffusion(SPACE, TEXTS, network=NETWORKS[request.param], schedule="cosine", prediction="v")
    images(generator, 1, 0)  # creates the weights
    return generator


def images(generator: Diffusion, batch: int, seed: int, **options: Any) -> np.ndarray:
    options = {"steps": STEPS, **options}
    noise = sample(generator.noise_spec(**options), [(seed, copy) for copy in range(batch)])
    conditions = [random_conditions(TEXTS, batch, seed) for seed in (0, 1)]
    given = keras.tree.map_structure(ops.convert_to_tensor, (*conditions, noise))
    with no_gradients():
        return np.asarray(ops.convert_to_numpy(generator.generate(*given, **options)))


@pytest.mark.parametrize(
    "options",
    [
        *({"sampler": name} for name in SAMPLERS),
        {"sampler": {"kind": "heun", "churn": 3.0}, "guidance": 2.0},
        {"sampler": "ddim", "eta": 0.5, "guidance": 2.0, "guidance_rescale": 0.3, "dynamic_threshold": 0.9},
    ],
    ids=str,
)
def test_images_are_those_of_the_steps_one_by_one(
    diffusion: Diffusion, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgen.backend.loops import replay

    recorded: list[int] = []
    compiled = replay.compiled_calls
    monkeypatch.setattr(replay, "compiled_calls", lambda *given: (recorded.append(1), compiled(*given))[1])
    for number, (batch, seed) in enumerate(((3, 1), (1, 2)), 1):
        perturb(diffusion, 0.05)  # other weights than in the call before
        with monkeypatch.context() as plain:
            plain.setattr(loop, "MIN_ITERATIONS", 1000)
            wanted = images(diffusion, batch, seed, **options)
        np.testing.assert_array_equal(images(diffusion, batch, seed, **options), wanted)
        assert len(recorded) == number


def test_a_step_that_reads_the_noise_level_is_not_replayed(
    diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sampler": "euler", "guidance": 3.0, "guidance_interval": (0.5, 5.0)}
    found = images(diffusion, 2, 1, **options)
    monkeypatch.setattr(loop, "MIN_ITERATIONS", 1000)
    np.testing.assert_array_equal(found, images(diffusion, 2, 1, **options))
    assert not np.array_equal(found, images(diffusion, 2, 1, sampler="euler", guidance=3.0))
