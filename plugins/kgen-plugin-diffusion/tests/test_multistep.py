"""Multistep and stochastic samplers, and spacings by noise level, compared with closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.discrete import Discrete
from kgen_plugin_diffusion.samplers import Grid, multistep, time_grid
from kgen_plugin_diffusion.samplers.dpm_solver import solved_exactly
from kgen_plugin_diffusion.schedules import ShiftedFlow
from kgen_plugin_diffusion.spacings.levels import OPTIMIZED

import kgen
from kgen.backend.devices import as_graph
from kgen.random import normal

pytestmark = pytest.mark.portable

SCHEDULES = {
    "discrete": Discrete(),
    "zero-snr": Discrete(zero_terminal_snr=True),
    "shifted-flow": ShiftedFlow(),
    **{name: kgen.part("diffusion.schedule", name) for name in ("linear", "cosine", "rectified-flow", "karras")},
}
SAMPLERS: tuple[Any, ...] = (
    "dpm++2m-sde",
    "dpm++3m-sde",
    "unipc",
    "deis",
    "lms",
    "pndm",
    {"kind": "heun", "churn": 20.0},
)
SPREAD = 0.5


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def ideal(x: Any, alpha: Any, sigma: Any, level: Any) -> Any:
    """The best denoiser of data N(0, SPREAD^2)."""
    return alpha * SPREAD**2 * x / ((alpha * SPREAD) ** 2 + sigma**2)


# ---- the polynomials -------------------------------------------------------------------------------------------------


def test_weights_integrate_the_polynomial_through_the_values() -> None:
    nodes = [0.0, -0.7, -1.9, 1.0]
    weights = multistep.polynomial_weights([1 / (k + 1) for k in range(4)], nodes)
    cubic = np.poly1d([2.0, -1.0, 0.5, 3.0])
    assert sum(w * cubic(u) for w, u in zip(weights, nodes, strict=True)) == pytest.approx(cubic.integ()(1.0))


@pytest.mark.parametrize("h", [-1.5, 0.02, 0.8, 3.0])
def test_moments_are_those_of_the_exponential(h: float) -> None:
    """Integration by parts: m_k = 1 - k / h m_(k-1)."""
    wanted = [1 - math.exp(-h)]
    for k in (1, 2):
        wanted.append(1 - k / h * wanted[-1])
    got = [float(array(m)[0]) for m in multistep.exponential_moments(tensor([h]), 3)]
    assert got == pytest.approx(wanted, rel=2e-5)


# ---- convergence -----------------------------------------------------------------------------------------------------


def graded_flow(steps: int) -> tuple[Grid, float]:
    """Returns levels of rectified flow and the exact factor between them.

    The first and the last steps are short, so that their lower order does not show.
    """
    u = np.linspace(0, 1, steps + 1)
    times = tensor(0.95 - 0.9 * (3 * u**2 - 2 * u**3))
    alpha, sigma = SCHEDULES["rectified-flow"].alpha(times), SCHEDULES["rectified-flow"].sigma(times)
    deviation = array(ops.sqrt((alpha * SPREAD) ** 2 + sigma**2)).astype(float)
    return Grid(alpha, sigma, times), deviation[-1] / deviation[0]


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        ("pndm", 2),
        ("dpm++2m-sde", 2),
        ("dpm++3m-sde", 2),
        *(({"kind": "lms", "order": order}, order) for order in (2, 4)),
        *(({"kind": "deis", "order": order}, order) for order in (1, 2, 3)),
        *(({"kind": "unipc", "order": order}, order + 1) for order in (1, 2, 3)),
    ],
)
def test_convergence_is_of_the_methods_order(sampler: Any, order: int) -> None:
    given = {"eta": 0.0} if str(sampler).endswith("sde") else {}

    def error(steps: int) -> float:
        grid, factor = graded_flow(steps)
        x = kgen.part("diffusion.sampler", sampler)(ideal, tensor([1.0]), grid, None, **given)
        return abs(float(x[0]) - factor)

    coarse, fine = error(40), error(80)
    assert fine < 1e-2
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


@pytest.mark.backends
def test_every_backend_samples_the_distribution(compiled: Any) -> None:
    """From pure noise of rectified flow, in one compiled program: mean 0, and the deviation of the data."""
    count = 2000
    rng = np.random.default_rng(0)
    grid = time_grid(SCHEDULES["rectified-flow"], 40)

    def sample(start: Any, keys: Any) -> Any:
        noise = lambda step: normal(keys, step, (1,))  # noqa: E731
        solvers = [kgen.part("diffusion.sampler", sampler) for sampler in SAMPLERS]
        return ops.concatenate([solver(ideal, start * grid.sigma[0], grid, noise) for solver in solvers], axis=-1)

    start = rng.standard_normal((count, 1)).astype("float32")
    x = compiled(sample, start=start, keys=rng.integers(-(2**31), 2**31, (count, 2)).astype(np.int32))
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=0.04)
    np.testing.assert_allclose(x.std(axis=0), SPREAD, rtol=0.06)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("schedule", ["zero-snr", "rectified-flow", "discrete", "karras"])
def test_few_steps_stay_finite(schedule: str, steps: int) -> None:
    grid = time_grid(SCHEDULES[schedule], steps)
    for sampler in SAMPLERS:
        x = kgen.part("diffusion.sampler", sampler)(ideal, tensor([[1.0]]) * grid.sigma[0], grid, lambda step: 1.0)
        assert np.isfinite(array(x)).all(), sampler


# ---- fresh noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_with_fresh_noise_keeps_the_amounts_of_image_and_noise(eta: float) -> None:
    """If the denoised image does not change, x = alpha D + sigma eps becomes alpha' D + sigma' eps'."""
    grid, _ = graded_flow(7)
    alpha, sigma = array(grid.alpha).astype(float), array(grid.sigma).astype(float)
    keep, gain, fresh = (array(weight) for weight in solved_exactly(grid, eta))
    h = np.diff(np.log(alpha / sigma))
    np.testing.assert_allclose(keep, np.exp(-eta * h) * sigma[1:] / sigma[:-1], rtol=1e-5)
    np.testing.assert_allclose(keep * alpha[:-1] + gain, alpha[1:], rtol=1e-5)
    np.testing.assert_allclose((keep * sigma[:-1]) ** 2 + fresh**2, sigma[1:] ** 2, rtol=1e-5)


def test_noisy_third_order_steps_integrate_newtons_polynomial() -> None:
    """Each step, with the integrals of exp(-H (1 - u)) u^k by parts, H = (1 + eta) h, and half of the last one."""
    grid, _ = graded_flow(6)
    alpha, sigma = array(grid.alpha).astype(float), array(grid.sigma).astype(float)
    levels, fresh = np.log(alpha / sigma), np.random.default_rng(2).standard_normal(6)
    x, past = 1.0, []
    for i in range(6):
        h = levels[i + 1] - levels[i]
        past = [ideal(x, alpha[i], sigma[i], None), *past[:2]]
        m0 = 1 - math.exp(-2 * h)
        m1 = 1 - m0 / (2 * h)
        m2 = 1 - 2 * m1 / (2 * h)
        made = m0 * past[0]
        if i > 0:
            u1 = (levels[i - 1] - levels[i]) / h
            slope = (past[1] - past[0]) / u1
            made += m1 * slope
        if i > 1:
            u2 = (levels[i - 2] - levels[i]) / h
            bend = ((past[2] - past[1]) / (u2 - u1) - slope) / u2
            made += (0.5 * m2 - u1 * m1) * bend
        added = sigma[i + 1] * math.sqrt(1 - math.exp(-2 * h)) * fresh[i]
        x = math.exp(-h) * sigma[i + 1] / sigma[i] * x + alpha[i + 1] * made + added
    sampler = kgen.part("diffusion.sampler", "dpm++3m-sde")
    got = sampler(ideal, tensor([1.0]), grid, lambda i: float(fresh[int(i)]))
    assert float(got[0]) == pytest.approx(x, rel=1e-4)


# ---- churn -----------------------------------------------------------------------------------------------------------


def test_churn_is_algorithm_2_of_karras_et_al() -> None:
    steps, churn, low, high, scale = 12, 15.0, 0.05, 50.0, 1.007
    fresh = np.random.default_rng(1).standard_normal(steps)
    t = np.append(array(time_grid(SCHEDULES["karras"], steps).sigma)[:-1].astype(float), 0.0)

    def slope(x: float, sigma: float) -> float:
        return (x - ideal(x, 1.0, sigma, None)) / sigma

    x, wanted = 80.0, [80.0]
    for i in range(steps):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= t[i] <= high else 0.0
        raised = t[i] * (1 + gamma)
        x += math.sqrt(raised**2 - t[i] ** 2) * scale * fresh[i]
        d = slope(x, raised)
        moved = x + (t[i + 1] - raised) * d
        if t[i + 1] > 0:
            moved = x + (t[i + 1] - raised) * 0.5 * (d + slope(moved, t[i + 1]))
        x = moved
        wanted.append(x)

    sampler = {"kind": "heun", "churn": churn, "churn_min": low, "churn_max": high, "churn_noise": scale}
    grid = time_grid(SCHEDULES["karras"], steps)
    got = kgen.part("diffusion.sampler", sampler)(ideal, tensor([80.0]), grid, lambda i: float(fresh[int(i)]))
    assert float(got[0]) == pytest.approx(x, rel=1e-4)


def test_churn_asks_the_network_at_the_raised_level() -> None:
    seen: list[tuple[float, float]] = []

    def denoise(x: Any, alpha: Any, sigma: Any, level: Any) -> Any:
        seen.append((float(sigma / alpha), float(level)))
        return ideal(x, alpha, sigma, level)

    grid = time_grid(SCHEDULES["discrete"], 5)
    kgen.part("diffusion.sampler", {"kind": "heun", "churn": 1.0})(denoise, tensor([[1.0]]), grid, lambda step: 1.0)
    levels = array(grid.sigma)[:-1] / array(grid.alpha)[:-1]
    assert seen[0][0] == pytest.approx(levels[0], rel=1e-5)  # the schedule has no higher level
    assert [level for level, _ in seen[2::2]] == pytest.approx(list(1.2 * levels[1:]), rel=1e-4)
    for level, number in seen:
        products = SCHEDULES["discrete"].alphas_cumprod()
        assert np.interp(number, np.arange(1000), np.sqrt(1 / products - 1)) == pytest.approx(level, rel=3e-3)


def test_churn_needs_a_schedule() -> None:
    grid, _ = graded_flow(3)
    with pytest.raises(ValueError, match="belong to no schedule"):
        kgen.part("diffusion.sampler", {"kind": "heun", "churn": 1.0})(ideal, tensor([1.0]), grid, lambda step: 1.0)


# ---- spacings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_time_of_a_noise_level_is_found(schedule: str) -> None:
    times = np.array([0.05, 0.3, 0.8], "float32")
    log_snr = SCHEDULES[schedule].log_snr(tensor(times))
    np.testing.assert_allclose(array(SCHEDULES[schedule].time_at(log_snr)), times, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["karras", "exponential", {"kind": "ays", "model": "sdxl"}])
def test_noise_levels_are_spaced_in_every_schedule(schedule: str, spacing: Any) -> None:
    steps, model = 10, SCHEDULES[schedule]
    grid = time_grid(model, steps, spacing)
    alpha, sigma = array(grid.alpha), array(grid.sigma)
    assert (sigma[-1], alpha[-1]) == (0.0, 1.0) and sigma[0] == pytest.approx(float(model.sigma(tensor(1.0))), rel=1e-6)
    first = model.time(tensor(0.0))
    low = float(model.sigma(first) / model.alpha(first))
    high = min(sigma[0] / alpha[0] if alpha[0] else math.inf, 160.0)
    share = np.arange(steps) / (steps - 1)
    wanted = {
        "karras": (high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
        "exponential": high ** (1 - share) * low**share,
    }.get(str(spacing), np.array(OPTIMIZED["sdxl"][:-1]))
    np.testing.assert_allclose((sigma[:-1] / np.maximum(alpha[:-1], 1e-9))[1:], wanted[1:], rtol=2e-3)


def test_optimized_levels_are_interpolated_in_the_logarithm() -> None:
    steps = 17
    table = np.log(OPTIMIZED["sd"])
    wanted = np.exp(np.interp(np.linspace(0, 10, steps + 1), np.arange(11), table))[1:-1]
    grid = time_grid(Discrete(), steps, "ays")
    np.testing.assert_allclose((array(grid.sigma) / array(grid.alpha))[1:-1], wanted, rtol=1e-4)


@pytest.mark.parametrize("spacing", ["karras", "exponential", "ays", "leading", "trailing", "linspace", "quadratic"])
def test_every_spacing_begins_at_the_strength_of_a_change(spacing: str) -> None:
    grid = time_grid(Discrete(), 6, spacing, 0.5)
    wanted = 0.5 * 830 / 999 if spacing == "leading" else 0.5  # numbers 830, 664, ..., 0
    assert float(grid.sigma[0]) == pytest.approx(float(Discrete().sigma(tensor(wanted))), rel=1e-5)
    assert (np.diff(array(grid.sigma)) < 0).all()


@pytest.mark.parametrize(
    ("spacing", "steps", "numbers"),
    [
        ("leading", 1001, "from 0 to 0"),
        ({"kind": "leading", "offset": 1}, 1000, "from 1000 to 1"),
        ("trailing", 1001, "from 999 to 0"),
        ("linspace", 1001, "from 999 to 0"),
        ({"kind": "leading", "offset": 1000}, 1, "from 1000 to 1000"),
        ({"kind": "linspace", "last": 1000.0}, 2, "from 999 to 1000"),
    ],
)
def test_more_steps_than_discrete_times_are_refused(spacing: Any, steps: int, numbers: str) -> None:
    with pytest.raises(ValueError, match=rf"steps: {steps} does not fit into the 1000 discrete times.*{numbers}"):
        time_grid(Discrete(), steps, spacing)


@pytest.mark.parametrize("steps", [1, 2, 999, 1000])
@pytest.mark.parametrize("kind", ["leading", "trailing", "linspace"])
def test_as_many_steps_as_discrete_times_fit(kind: str, steps: int) -> None:
    numbers = array(time_grid(Discrete(), steps, kind).noise_cond)[:-1]
    assert len(numbers) == steps and numbers.min() > -0.01 and numbers.max() < 999.01


@pytest.mark.parametrize("sampler", ["dpm++2m", "deis", {"kind": "deis", "order": 2}, "lms"])
def test_a_last_step_of_length_zero_changes_nothing(sampler: Any) -> None:
    """The last number is 0, and sampling ends with the noise of number 0."""
    whole = time_grid(Discrete(), 6, {"kind": "leading", "clean_end": False})
    shorter = Grid(whole.alpha[:-1], whole.sigma[:-1], whole.noise_cond[:-1], variance_exploding=True)
    found, expected = (
        array(kgen.part("diffusion.sampler", sampler)(ideal, tensor([1.0]), grid, None)) for grid in (whole, shorter)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("spacing", "start"), [("ays", 0.02), ("karras", 0.0008), ("exponential", 0.0008)])
def test_levels_fall_from_a_start_below_the_last_one(spacing: str, start: float) -> None:
    grid = time_grid(SCHEDULES["rectified-flow"], 6, spacing, start)
    assert (np.diff(array(grid.sigma)) < 0).all()


def test_optimized_levels_are_those_of_the_published_times() -> None:
    published = pytest.importorskip("diffusers").schedulers.AysSchedules
    products = Discrete().alphas_cumprod()
    levels = np.sqrt(1 / products - 1)
    for model, name in (("sd", "StableDiffusionTimesteps"), ("sdxl", "StableDiffusionXLTimesteps")):
        np.testing.assert_allclose(OPTIMIZED[model], levels[[*published[name], 0]], atol=6e-4)
    np.testing.assert_allclose(OPTIMIZED["svd"][:-1], published["StableDiffusionVideoSigmas"][:-1])


def test_the_last_level_may_keep_the_least_noise() -> None:
    grid = time_grid(Discrete(), 5, {"kind": "trailing", "clean_end": False})
    assert float(grid.sigma[-1]) ** 2 == pytest.approx(1 - Discrete().alphas_cumprod()[0], rel=1e-4)
    assert grid.steps == 5
    flow = time_grid(SCHEDULES["rectified-flow"], 5, {"kind": "trailing", "clean_end": False})
    assert float(flow.sigma[-1]) == pytest.approx(0.001)


def test_graph_of_a_traced_start() -> None:
    """`strength` is an input of the compiled program."""
    for spacing in ("karras", "ays", "trailing"):
        value = as_graph(lambda spacing=spacing: time_grid(Discrete(), 4, spacing, tensor(0.6)).sigma[0])()
        assert float(value) == pytest.approx(float(Discrete().sigma(tensor(0.6))), rel=1e-5)
