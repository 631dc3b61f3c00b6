"""Discrete schedules, spacings and samplers, step by step against diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.discrete import Discrete
from kgen_plugin_diffusion.samplers import Grid, time_grid
from kgen_plugin_diffusion.schedules import ShiftedFlow

import kgen

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.portable

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = 16  # from 15 on, diffusers' DPM-Solver and DEIS use their full order in the last steps, too

Inputs = list[np.ndarray]


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def start() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype("float32")


def predicted(x: Any, time: Any, sin: Callable[[Any], Any]) -> Any:
    """A smooth model that depends on x and on the time, without any weights: the predicted noise, or the velocity."""
    return x * (0.9 - 0.5 * time / 1000) + 0.2 * sin(2.0 * x + time / 300)


def ours(sampler: Any, grid: Grid, x: np.ndarray, noise: Any = None, prediction: str = "eps") -> tuple[Inputs, Any]:
    """Returns the model's inputs at all evaluations, and the sample."""
    inputs: Inputs = []
    target = kgen.part("diffusion.prediction", prediction)

    def denoise(x: Any, alpha: Any, sigma: Any, time: Any) -> Any:
        inputs.append(array(x))
        return target.denoised(predicted(x, time, ops.sin), x, alpha, sigma, 1.0)

    x = kgen.part("diffusion.sampler", sampler)(denoise, ops.convert_to_tensor(x), grid, noise)
    return inputs, array(x)


def theirs(scheduler: Any, x: np.ndarray, steps: int = STEPS, noise: Any = None) -> tuple[Inputs, Any]:
    """Returns the same of a scheduler of diffusers, whose state may be x / alpha."""
    scheduler.set_timesteps(steps)
    inputs: Inputs = []
    state = torch.tensor(x)
    if float(scheduler.init_noise_sigma) > 1.0:
        state = state * (float(scheduler.sigmas[0]) ** 2 + 1.0) ** 0.5
    for i, time in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(state, time) if hasattr(scheduler, "scale_model_input") else state
        inputs.append(seen.numpy())
        output = predicted(seen, float(time), torch.sin)
        drawn = {} if noise is None else {"variance_noise": torch.tensor(array(noise(i)))}
        state = scheduler.step(output, time, state, **drawn).prev_sample
    return inputs, state.numpy()


def assert_same_steps(got: tuple[Inputs, Any], wanted: tuple[Inputs, Any]) -> None:
    assert len(got[0]) == len(wanted[0]), "another number of evaluations"
    for step, (x, y) in enumerate(zip([*got[0], got[1]], [*wanted[0], wanted[1]], strict=True)):
        assert np.abs(x - y).max() <= 1e-4 * max(1.0, np.abs(y).max()), f"input {step}"


# ---- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (Discrete(), STABLE_DIFFUSION),
        (Discrete(betas="linear"), {}),
        (Discrete(betas="linear", steps=1100), {"num_train_timesteps": 1100}),
        (Discrete(betas="cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
        (Discrete(zero_terminal_snr=True), {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True}),
        (Discrete(beta_start=0.001, beta_end=0.02), {**STABLE_DIFFUSION, "beta_start": 0.001, "beta_end": 0.02}),
    ],
)
def test_discrete_schedules_are_those_of_diffusers(schedule: Discrete, options: dict[str, Any]) -> None:
    products = diffusers.DDIMScheduler(**options).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(schedule.alphas_cumprod(), products, rtol=3e-4, atol=1e-7)  # theirs are float32
    number = np.arange(schedule.steps, dtype="float32")
    t = schedule.time(ops.convert_to_tensor(number))
    alpha, sigma = array(schedule.alpha(t)), array(schedule.sigma(t))
    np.testing.assert_allclose(alpha, np.sqrt(schedule.alphas_cumprod()), rtol=2e-5, atol=2e-7)
    np.testing.assert_allclose(sigma, np.sqrt(1 - schedule.alphas_cumprod()), rtol=2e-5)
    np.testing.assert_allclose(array(schedule.noise_cond(t, sigma)), number, atol=1e-4)
    assert (alpha[-1] == 0.0) == schedule.zero_terminal_snr


def test_betas_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="'cosine' have no beta_start"):
        Discrete(betas="cosine", beta_end=0.02)


def test_the_shift_multiplies_the_noise_level() -> None:
    t = ops.convert_to_tensor(np.linspace(0.01, 0.99, 9).astype("float32"))
    plain, shifted = kgen.part("diffusion.schedule", "rectified-flow"), ShiftedFlow(shift=3.0)
    level, shifted_level = (array(s.sigma(t) / s.alpha(t)) for s in (plain, shifted))
    np.testing.assert_allclose(shifted_level, 3.0 * level, rtol=1e-5)
    np.testing.assert_allclose(array(shifted.alpha(t) + shifted.sigma(t)), 1.0, rtol=1e-6)


# ---- spacings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [7, 10, 25, 30])
@pytest.mark.parametrize(
    ("spacing", "scheduler", "options"),
    [
        ({"kind": "leading"}, "DDIMScheduler", {"timestep_spacing": "leading"}),
        ({"kind": "leading", "offset": 1}, "DDIMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
        ({"kind": "trailing"}, "DDIMScheduler", {"timestep_spacing": "trailing"}),
        ({"kind": "linspace"}, "DDIMScheduler", {"timestep_spacing": "linspace"}),
        ({"kind": "linspace", "rounded": False}, "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
        ({"kind": "linspace", "endpoint": False}, "UniPCMultistepScheduler", {"timestep_spacing": "linspace"}),
        ({"kind": "leading", "endpoint": False}, "UniPCMultistepScheduler", {"timestep_spacing": "leading"}),
        ({"kind": "karras"}, "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ({"kind": "exponential"}, "EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    ],
)
def test_times_are_those_of_diffusers(spacing: Any, scheduler: str, options: dict[str, Any], steps: int) -> None:
    wanted = getattr(diffusers, scheduler)(**STABLE_DIFFUSION, **options)
    wanted.set_timesteps(steps)
    got = time_grid(Discrete(), steps, spacing["kind"] if spacing["kind"] == "exponential" else spacing)
    interpolated = spacing["kind"] in ("karras", "exponential")  # between two steps; theirs is linear in log(sigma)
    tolerance = 0.1 if interpolated else 1e-3
    np.testing.assert_allclose(array(got.noise_cond)[:-1], wanted.timesteps.double().numpy(), atol=tolerance)
    if hasattr(wanted, "sigmas"):
        levels = array(got.sigma)[:-1] / array(got.alpha)[:-1]
        np.testing.assert_allclose(levels, wanted.sigmas[:-1].numpy(), rtol=5e-5)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_the_flow_is_shifted_as_in_stable_diffusion_3(steps: int) -> None:
    wanted = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    wanted.set_timesteps(steps)
    last = float(wanted.sigma_min) * 1000 - 1
    assert last == pytest.approx(1.994, abs=1e-4)
    got = time_grid(ShiftedFlow(shift=3.0), steps, {"kind": "linspace", "last": 1.994, "rounded": False})
    np.testing.assert_allclose(array(got.sigma), wanted.sigmas.numpy(), rtol=1e-4)
    np.testing.assert_allclose(array(got.noise_cond)[:-1], wanted.timesteps.numpy(), rtol=1e-4)


# ---- samplers --------------------------------------------------------------------------------------------------------

LINSPACE = {"kind": "linspace", "endpoint": False}
LEADING = {"kind": "leading", "offset": 1, "clean_end": False}

CASES = {
    "ddim": (
        "ddim",
        LEADING,
        diffusers.DDIMScheduler,
        {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    ),
    "pndm": (
        "pndm",
        LEADING,
        diffusers.PNDMScheduler,
        {"steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True},
    ),
    "euler": ("euler", {"kind": "linspace", "rounded": False}, diffusers.EulerDiscreteScheduler, {}),
    "euler-karras": ("euler", "karras", diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "heun": ("heun", {"kind": "linspace", "rounded": False}, diffusers.HeunDiscreteScheduler, {}),
    "lms": ("lms", {"kind": "linspace", "rounded": False}, diffusers.LMSDiscreteScheduler, {}),
    "deis-2": ({"kind": "deis", "order": 2}, {**LINSPACE, "clean_end": False}, diffusers.DEISMultistepScheduler, {}),
    "deis-3": (
        {"kind": "deis", "order": 3},
        {**LINSPACE, "clean_end": False},
        diffusers.DEISMultistepScheduler,
        {"solver_order": 3},
    ),
    "dpm++2m": ("dpm++2m", LINSPACE, diffusers.DPMSolverMultistepScheduler, {}),
    "unipc-1": ({"kind": "unipc", "order": 1}, LINSPACE, diffusers.UniPCMultistepScheduler, {"solver_order": 1}),
    "unipc-2": ("unipc", LINSPACE, diffusers.UniPCMultistepScheduler, {}),
    "unipc-3": ({"kind": "unipc", "order": 3}, LINSPACE, diffusers.UniPCMultistepScheduler, {"solver_order": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_that_of_diffusers(case: str) -> None:
    sampler, spacing, scheduler, options = CASES[case]
    grid = time_grid(Discrete(), STEPS, spacing)
    assert_same_steps(ours(sampler, grid, start()), theirs(scheduler(**STABLE_DIFFUSION, **options), start()))


def test_each_noisy_step_is_that_of_diffusers() -> None:
    def noise(step: Any) -> Any:
        return ops.convert_to_tensor(np.random.default_rng(int(step)).standard_normal((2, 3, 3, 4)).astype("float32"))

    scheduler = diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION, algorithm_type="sde-dpmsolver++")
    grid = time_grid(Discrete(), STEPS, LINSPACE)
    assert_same_steps(ours("dpm++2m-sde", grid, start(), noise), theirs(scheduler, start(), noise=noise))


def test_the_third_order_steps_without_noise_are_those_of_diffusers() -> None:
    """In diffusers, one term of the third-order steps with noise has the wrong sign; in k-diffusion, it has not."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION, solver_order=3, solver_type="heun")
    grid = time_grid(Discrete(), STEPS, LINSPACE)

    def sample(denoise: Any, x: Any, grid: Grid, noise: Any) -> Any:
        return kgen.part("diffusion.sampler", "dpm++3m-sde")(denoise, x, grid, noise, 0.0)

    assert_same_steps(ours(sample, grid, start()), theirs(scheduler, start()))


def test_each_step_of_a_shifted_flow_is_that_of_diffusers() -> None:
    spacing = {"kind": "linspace", "last": 1.994, "rounded": False}
    grid = time_grid(ShiftedFlow(shift=3.0), STEPS, spacing)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.init_noise_sigma = 1.0
    assert_same_steps(ours("euler", grid, start(), prediction="velocity"), theirs(scheduler, start()))


def test_zero_terminal_snr_with_trailing_times_is_that_of_diffusers() -> None:
    """The setting that Lin et al. 2024 recommend: DDIM from pure noise, with predicted v."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION, **options, clip_sample=False)
    grid = time_grid(Discrete(zero_terminal_snr=True), 10, "trailing")
    assert float(grid.alpha[0]) == 0.0
    assert_same_steps(ours("ddim", grid, start(), prediction="v"), theirs(scheduler, start(), steps=10))
