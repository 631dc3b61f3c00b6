"""The samplers, compared with published numbers, closed forms and diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.samplers import Grid, time_grid
from kgen_plugin_diffusion.schedules import linear_alphas_cumprod

import kgen
from kgen.backend.devices import as_graph
from kgen.random import normal

SAMPLERS = {
    name: kgen.part("diffusion.sampler", name)
    for name in ("ddpm", "ddim", "euler", "euler-ancestral", "heun", "dpm++2m")
}
SCHEDULES = {name: kgen.part("diffusion.schedule", name) for name in ("linear", "cosine", "rectified-flow", "karras")}

STOCHASTIC = ("ddpm", "euler-ancestral")


def silence(step):
    return 0.0


def tensor(values) -> object:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def number(x) -> float:
    return float(ops.convert_to_numpy(ops.reshape(x, (-1,)))[0])


# ---- the numbers of diffusers' own tests -----------------------------------------------------------------------------


def dummy_sample() -> np.ndarray:
    """The sample of diffusers' scheduler tests: (4, 3, 8, 8)."""
    return (np.arange(768).reshape(3, 8, 8, 4) / 768).transpose(3, 0, 1, 2)


def discrete_grid(times: list[int], last: float) -> Grid:
    """The linear schedule at discrete times, numbered from 0 as in diffusers, and a last cumulative product."""
    products = np.array([*linear_alphas_cumprod()[1:][times], last])
    return Grid(tensor(np.sqrt(products)), tensor(np.sqrt(1 - products)), tensor([*times, 0]))


def dummy_eps(x, alpha, sigma, level):
    return (x - sigma * (x * level / (level + 1.0))) / alpha


def dummy_v(x, alpha, sigma, level):
    return alpha * x - sigma * (x * level / (level + 1.0))


@pytest.mark.parametrize(("denoise", "total"), [(dummy_eps, 172.0067), (dummy_v, 52.5302)])
def test_ddim(denoise, total: float) -> None:
    grid = discrete_grid(list(range(900, -1, -100)), 1.0)

    def clipped(*arguments):
        return ops.clip(denoise(*arguments), -1.0, 1.0)

    x = SAMPLERS["ddim"](clipped, tensor(dummy_sample()), grid, silence)
    assert np.abs(ops.convert_to_numpy(x)).sum() == pytest.approx(total, rel=1e-3)


def test_dpm_solver() -> None:
    times = [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]
    grid = discrete_grid(times, linear_alphas_cumprod()[1])
    x = SAMPLERS["dpm++2m"](dummy_eps, tensor(dummy_sample()), grid, silence)
    assert np.abs(ops.convert_to_numpy(x)).mean() == pytest.approx(0.3301, rel=1e-3)


def euler_levels() -> tuple[np.ndarray, np.ndarray]:
    """Times and noise levels of diffusers' Euler tests: 1,100 training steps, 10 sampling steps."""
    products = np.cumprod(1 - np.linspace(1e-4, 0.02, 1100))
    times = np.linspace(0, 1099, 10)[::-1]
    sigmas = np.interp(times, np.arange(1100), np.sqrt((1 - products) / products))
    return np.append(times, 0.0), np.append(sigmas, 0.0)


def test_euler_as_diffusers_tests_it() -> None:
    """The test of diffusers continues from the scaled model input, not from the sample, so each step runs alone."""
    times, sigmas = euler_levels()

    def denoise(x, alpha, sigma, level):
        return x - sigma * (x * level / (level + 1.0))

    x = tensor(dummy_sample() * sigmas[0])
    for i in range(10):
        grid = Grid(tensor([1.0, 1.0]), tensor(sigmas[i : i + 2]), tensor(times[i : i + 2]), variance_exploding=True)
        x = SAMPLERS["euler"](denoise, x / float(np.sqrt(sigmas[i] ** 2 + 1)), grid, silence)
    assert np.abs(ops.convert_to_numpy(x)).sum() == pytest.approx(10.0807, rel=1e-3)


def test_euler_against_diffusers() -> None:
    torch = pytest.importorskip("torch")
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(num_train_timesteps=1100)
    theirs.set_timesteps(10)
    times, sigmas = euler_levels()
    x = torch.tensor(dummy_sample() * sigmas[0])
    for t in theirs.timesteps:
        seen = theirs.scale_model_input(x, t)
        x = theirs.step(seen * t / (t + 1), t, x).prev_sample
    grid = Grid(tensor(np.ones(11)), tensor(sigmas), tensor(times), variance_exploding=True)

    def denoise(x, alpha, sigma, level):
        return x - sigma * (x / ops.sqrt(sigma**2 + 1.0) * level / (level + 1.0))

    ours = SAMPLERS["euler"](denoise, tensor(dummy_sample() * sigmas[0]), grid, silence)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), x.numpy(), rtol=1e-3, atol=1e-4)


# ---- the closed form of a Gaussian -----------------------------------------------------------------------------------

SPREAD = 0.5


def ideal(x, alpha, sigma, level):
    """The best denoiser of data N(0, SPREAD^2)."""
    return alpha * SPREAD**2 * x / ((alpha * SPREAD) ** 2 + sigma**2)


def sampled(sampler: str, grid: Grid) -> float:
    """Returns the sample that the ideal denoiser makes from the noise 1.0."""
    return number(as_graph(lambda: SAMPLERS[sampler](ideal, tensor([1.0]), grid, silence))())


@pytest.mark.parametrize(
    ("sampler", "values"),
    [
        ("heun", (0.006595308, 0.006326214, 0.006267820)),
        ("euler", (0.005287893, 0.005762453, 0.006004619)),
        ("dpm++2m", (0.006639251, 0.006331771, 0.006268425)),
    ],
)
def test_karras_steps_of_the_ideal_denoiser(sampler: str, values: tuple[float, ...]) -> None:
    for steps, value in zip((18, 36, 72), values, strict=True):
        assert sampled(sampler, time_grid(SCHEDULES["karras"], steps)) == pytest.approx(value, rel=1e-3)


def flow_between(schedule: str, steps: int) -> tuple[Grid, float]:
    """Returns levels from t = 0.95 to 0.05, where the flow is smooth, and the exact factor of the flow between them."""
    times = ops.convert_to_tensor(np.linspace(0.95, 0.05, steps + 1, dtype="float32"))
    alpha, sigma = SCHEDULES[schedule].alpha(times), SCHEDULES[schedule].sigma(times)
    deviation = ops.convert_to_numpy(ops.sqrt((alpha * SPREAD) ** 2 + sigma**2))  # of x_t: the flow keeps quantiles
    return Grid(alpha, sigma, times), float(deviation[-1] / deviation[0])


@pytest.mark.parametrize("schedule", ["cosine", "rectified-flow"])
@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
def test_convergence_is_of_the_methods_order(sampler: str, schedule: str, order: int) -> None:
    def error(steps: int) -> float:
        grid, factor = flow_between(schedule, steps)
        return abs(sampled(sampler, grid) - factor)

    coarse, fine = error(10), error(40)
    assert fine < 0.02
    assert math.log2(coarse / fine) / 2 == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_gives_the_right_distribution(compiled, sampler: str, schedule: str) -> None:
    count, steps = 4000, 400 if sampler in STOCHASTIC else 100
    rng = np.random.default_rng(0)

    def sample(start, keys):
        grid = time_grid(SCHEDULES[schedule], steps)
        return SAMPLERS[sampler](ideal, start * grid.sigma[0], grid, lambda step: normal(keys, step, (1,)))

    start = rng.standard_normal((count, 1)).astype("float32")
    x = compiled(sample, start=start, keys=rng.integers(-(2**31), 2**31, (count, 2)).astype(np.int32))
    assert x.mean() == pytest.approx(0.0, abs=0.03)
    assert x.std() == pytest.approx(SPREAD, rel=0.05)


@pytest.mark.backends
def test_eta_is_the_share_of_fresh_noise() -> None:
    grid = time_grid(SCHEDULES["cosine"], 20)
    keys = ops.convert_to_tensor(np.random.default_rng(0).integers(0, 2**31, (2000, 2)).astype(np.int32))

    def spread(eta: float) -> float:
        start = ops.ones((2000, 1))
        x = SAMPLERS["ddim"](ideal, start, grid, lambda step: normal(keys, step, (1,)), eta)
        return float(ops.convert_to_numpy(x).std())

    assert spread(0.0) < 1e-6 < spread(0.5) < spread(1.0)


def test_ancestral_steps_are_those_of_diffusers() -> None:
    """DDPM's mean over all 1000 discrete steps, without its noise."""
    torch = pytest.importorskip("torch")
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(clip_sample=False)
    theirs.set_timesteps(1000)
    x = torch.tensor(dummy_sample(), dtype=torch.float64)
    for t in theirs.timesteps[:50]:
        if int(t) == 950:
            break
        out = x * float(t) / (float(t) + 1)
        alpha_t, alpha_s = theirs.alphas_cumprod[t].double(), theirs.alphas_cumprod[t - 1].double()
        image = (x - (1 - alpha_t).sqrt() * out) / alpha_t.sqrt()
        beta = 1 - alpha_t / alpha_s
        x = (
            alpha_s.sqrt() * beta / (1 - alpha_t) * image
            + (alpha_t / alpha_s).sqrt() * (1 - alpha_s) / (1 - alpha_t) * x
        )
    grid = discrete_grid(list(range(999, 950, -1)), float(linear_alphas_cumprod()[1:][950]))
    ours = SAMPLERS["ddpm"](dummy_eps, tensor(dummy_sample()), grid, silence)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), x.numpy(), rtol=1e-3, atol=1e-4)
