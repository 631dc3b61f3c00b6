"""Schedules, predictions, weights and times, compared with closed forms."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion import predictions, weightings
from kgen_plugin_diffusion.guidance import lead_away
from kgen_plugin_diffusion.samplers import time_grid
from kgen_plugin_diffusion.schedules import linear_alphas_cumprod
from kgen_plugin_diffusion.times import LogitNormal, LogNormal, Uniform
from scipy import stats

import kgen

SCHEDULES = {name: kgen.part("diffusion.schedule", name) for name in ("linear", "cosine", "rectified-flow", "karras")}
PREDICTIONS = {name: kgen.part("diffusion.prediction", name) for name in ("eps", "x0", "v", "velocity", "edm")}

SIGMA_DATA = 0.5
LEVELS = [(0.9, math.sqrt(1 - 0.81)), (0.3, 0.7), (1.0, 5.0), (0.05, 0.99)]


def tensor(values) -> object:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def array(x) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


# ---- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_variance_is_preserved(name: str) -> None:
    t = tensor(np.linspace(0, 1, 101))
    alpha, sigma = array(SCHEDULES[name].alpha(t)), array(SCHEDULES[name].sigma(t))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-5)
    assert (np.diff(alpha) < 0).all() and (np.diff(sigma) > 0).all()


def test_the_linear_schedule_holds_ddpms_numbers() -> None:
    products = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for step in (1, 2, 500, 1000):
        t = tensor([step / 1000])
        assert array(SCHEDULES["linear"].alpha(t))[0] == pytest.approx(math.sqrt(products[step - 1]), rel=1e-4)
        assert array(SCHEDULES["linear"].sigma(t))[0] == pytest.approx(math.sqrt(1 - products[step - 1]), rel=1e-3)
    assert linear_alphas_cumprod()[0] == 1.0


def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal() -> None:
    t = np.linspace(0.01, 0.99, 7)
    wanted = np.cos((t + 0.008) / 1.008 * math.pi / 2)
    np.testing.assert_allclose(array(SCHEDULES["cosine"].alpha(tensor(t))), wanted, atol=3e-4)


def test_karras_grid_is_equation_5() -> None:
    steps, rho = 18, 7.0
    i = np.arange(steps)
    sigmas = (80 ** (1 / rho) + i / (steps - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    grid = time_grid(SCHEDULES["karras"], steps)
    np.testing.assert_allclose(array(grid.sigma), [*sigmas, 0.0], rtol=2e-4)
    np.testing.assert_array_equal(array(grid.alpha), 1.0)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_a_grid_falls_from_noise_to_a_clean_image(name: str, spacing: str) -> None:
    grid = time_grid(SCHEDULES[name], 7, spacing)
    assert grid.steps == 7
    assert (np.diff(array(grid.sigma)) < 0).all()
    assert array(grid.sigma)[-1] == 0.0 and array(grid.alpha)[-1] == 1.0


# ---- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_the_clean_image_is_recovered_from_the_target(name: str, alpha: float, sigma: float) -> None:
    rng = np.random.default_rng(0)
    x0, eps = tensor(rng.standard_normal((3, 4))), tensor(rng.standard_normal((3, 4)))
    level = tensor([[alpha]]), tensor([[sigma]])
    output = PREDICTIONS[name].target(x0, eps, *level, SIGMA_DATA)
    back = PREDICTIONS[name].denoised(output, alpha * x0 + sigma * eps, *level, SIGMA_DATA)
    np.testing.assert_allclose(array(back), array(x0), atol=1e-4)


def test_targets_are_those_of_the_papers() -> None:
    x0, eps, alpha, sigma = tensor([[2.0]]), tensor([[3.0]]), tensor([[0.6]]), tensor([[0.8]])
    values = {name: array(PREDICTIONS[name].target(x0, eps, alpha, sigma, 0.5))[0, 0] for name in PREDICTIONS}
    assert values["eps"] == 3.0 and values["x0"] == 2.0
    assert values["v"] == pytest.approx(0.6 * 3 - 0.8 * 2)  # Salimans and Ho: alpha eps - sigma x
    assert values["velocity"] == pytest.approx(3 - 2)


def test_edm_scalings_are_table_1() -> None:
    sigma, data = 1.7, 0.5
    skip, out, scale = (array(v)[0] for v in predictions.edm_scalings(tensor([1.0]), tensor([sigma]), data))
    assert skip == pytest.approx(data**2 / (sigma**2 + data**2), rel=1e-5)
    assert out == pytest.approx(sigma * data / math.sqrt(sigma**2 + data**2), rel=1e-5)
    assert scale == pytest.approx(1 / math.sqrt(sigma**2 + data**2), rel=1e-5)


def test_edm_targets_have_unit_variance() -> None:
    rng = np.random.default_rng(0)
    x0, eps = tensor(0.5 * rng.standard_normal((1, 50000))), tensor(rng.standard_normal((1, 50000)))
    for sigma in (0.02, 0.5, 20.0):
        level = tensor([[1.0]]), tensor([[sigma]])
        assert array(PREDICTIONS["edm"].target(x0, eps, *level, 0.5)).std() == pytest.approx(1.0, rel=0.02)


def test_the_edm_target_is_finite_without_noise() -> None:
    x0, eps, alpha = tensor([[0.3]]), tensor([[1.5]]), tensor([[1.0]])
    without, hardly = (array(PREDICTIONS["edm"].target(x0, eps, alpha, tensor([[s]]), 0.5)) for s in (0.0, 1e-6))
    np.testing.assert_allclose(without, [[-1.5]])  # the target is -eps
    np.testing.assert_allclose(hardly, without, atol=1e-4)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_an_output_error_is_an_x0_error(name: str, alpha: float, sigma: float) -> None:
    level = tensor([[alpha]]), tensor([[sigma]])
    x, output = tensor([[0.3]]), tensor([[0.2]])
    right, wrong = (array(PREDICTIONS[name].denoised(output + d, x, *level, SIGMA_DATA))[0, 0] for d in (0.0, 0.1))
    factor = array(PREDICTIONS[name].x0_factor(*level, SIGMA_DATA))[0, 0]
    assert (wrong - right) ** 2 == pytest.approx(0.1**2 * factor, rel=1e-3)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_snr_weights_make_every_prediction_the_same_loss(name: str) -> None:
    """SNR * |x0 error|^2 is |eps error|^2. So for "eps", "snr" is 1 and "min-snr" is min(SNR, gamma) / SNR."""
    alpha, sigma = tensor([[0.8]]), tensor([[0.6]])
    snr = (0.8 / 0.6) ** 2
    weights = {
        kind: array(weightings.weight(kind, PREDICTIONS[name], alpha, sigma, gamma=1.5, sigma_data=SIGMA_DATA))[0, 0]
        for kind in ("uniform", "snr", "min-snr")
    }
    factor = array(PREDICTIONS[name].x0_factor(alpha, sigma, SIGMA_DATA))[0, 0]
    assert weights["uniform"] == 1.0
    assert weights["snr"] == pytest.approx(factor * snr, rel=1e-5)
    assert weights["min-snr"] == pytest.approx(factor * 1.5, rel=1e-5)
    if name == "eps":
        assert weights["snr"] == pytest.approx(1.0, rel=1e-5)
        assert weights["min-snr"] == pytest.approx(1.5 / snr, rel=1e-5)  # Hang et al. 2023, section 3.4


# ---- times -----------------------------------------------------------------------------------------------------------


def sample(times, count: int = 20000) -> np.ndarray:
    return array(times.sample(count, keras.random.SeedGenerator(0)))


@pytest.mark.backends
def test_times_have_their_distributions() -> None:
    assert stats.kstest(sample(Uniform(stratified=False)), "uniform").pvalue > 1e-3
    t = sample(LogitNormal(mean=0.3, std=0.8))
    assert stats.kstest(np.log(t / (1 - t)), stats.norm(0.3, 0.8).cdf).pvalue > 1e-3
    sigma = array(SCHEDULES["karras"].sigma(tensor(sample(LogNormal()))))
    assert stats.kstest(np.log(sigma), stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3


@pytest.mark.backends
def test_stratified_times_fill_the_interval_evenly() -> None:
    t = np.sort(sample(Uniform(), 100))
    np.testing.assert_allclose(np.diff(t), 0.01, atol=1e-5)


# ---- guidance --------------------------------------------------------------------------------------------------------


def test_guidance_extrapolates() -> None:
    conditional, unconditional = tensor([[1.0, 2.0]]), tensor([[0.0, 1.0]])
    np.testing.assert_allclose(array(lead_away(conditional, [(1.0, unconditional)], 0.0)), [[1.0, 2.0]])
    np.testing.assert_allclose(array(lead_away(conditional, [(3.0, unconditional)], 0.0)), [[3.0, 4.0]])


@pytest.mark.backends
def test_rescale_keeps_the_conditional_deviation() -> None:
    rng = np.random.default_rng(0)
    conditional, unconditional = (tensor(rng.standard_normal((2, 8, 8, 3))) for _ in range(2))
    whole = array(lead_away(conditional, [(5.0, unconditional)], 1.0)).std(axis=(1, 2, 3))
    np.testing.assert_allclose(whole, array(conditional).std(axis=(1, 2, 3)), rtol=1e-4)
    half = array(lead_away(conditional, [(5.0, unconditional)], 0.5)).std(axis=(1, 2, 3))
    assert (half > whole).all()
