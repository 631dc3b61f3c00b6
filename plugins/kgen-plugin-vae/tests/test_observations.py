"""Observation models compared with scipy, and their samples with their probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_vae.observations import Bernoulli, Gaussian, Logistic
from kgen_plugin_vae.observations.scales import BIN, floored, to_8_bits
from scipy import integrate, special, stats

GRAYS = (np.arange(256) * 2.0 / 255.0 - 1.0).astype("float32")  # every 8-bit intensity
SHARP, WIDE, AWAY = (0.113, -6.5), (-0.4, 0.3), (1.7, -2.0)


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def parameters(numbers: Any, count: int = 256) -> Any:
    """Repeats the same parameters for `count` images of one pixel."""
    return tensor(np.tile(numbers, (count, 1, 1, 1)))


def all_grays(observation: Any, numbers: Any) -> np.ndarray:
    """Returns log_prob of each of the 256 images of one gray pixel."""
    return array(observation.log_prob(parameters(numbers), tensor(GRAYS[:, None, None, None])))


# ---- logistic --------------------------------------------------------------------------------------------------------


def log_mass(location: float, raw_log_scale: float, floor: float = -7.0) -> np.ndarray:
    """Returns the log-mass of the 256 bins in float64, from the thinner tail of scipy's logistic distribution."""
    scale = math.exp(floor + np.logaddexp(0.0, raw_log_scale - floor))
    edges = np.concatenate([[-np.inf], GRAYS[:-1].astype(float) + BIN / 2, [np.inf]])
    below, above = stats.logistic.cdf(edges, location, scale), stats.logistic.sf(edges, location, scale)
    return np.log(np.where(location > GRAYS, np.diff(below), -np.diff(above)))


@pytest.mark.parametrize("numbers", [SHARP, WIDE, AWAY, (-1.0, -4.0), (1.0, -7.0), (0.0, -30.0)])
def test_logistic_sums_to_one_over_the_256_intensities(numbers: tuple[float, float]) -> None:
    assert np.exp(all_grays(Logistic(), numbers).astype(float)).sum() == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize("numbers", [WIDE, AWAY, (0.2, -3.0)])
def test_logistic_agrees_with_scipy(numbers: tuple[float, float]) -> None:
    np.testing.assert_allclose(all_grays(Logistic(), numbers), log_mass(*numbers), rtol=1e-4, atol=1e-4)


def test_the_logistic_density_is_exact_in_the_tails() -> None:
    """At 500 nats, the difference of two float32 sigmoids would be 0."""
    scale = 2.0 * math.exp(-7.0)  # a raw -7 at a floor of -7
    got = all_grays(Logistic(), (0.0, -7.0))
    assert got[255] == pytest.approx(-(1.0 - BIN / 2) / scale, rel=1e-4)  # log sigmoid(x) = x for such x
    inside = -(GRAYS[250] - BIN / 2) / scale + math.log(-math.expm1(-BIN / scale))
    assert got[250] == pytest.approx(inside, rel=1e-4)


MIXTURE = (0.3, -1.0, 0.9, *(-0.8, 0.1, 0.7), *(0.2, 0.5, -0.4), *(-3.0, -4.0, -2.0), *(-2.5, -1.0, -5.0))
"""Three components, two channels: logits, locations of both channels, logarithms of scales of both."""


def test_a_mixture_is_one_of_whole_pixels() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 256, (50, 2))
    weights = special.log_softmax(MIXTURE[:3])
    tables = [[log_mass(MIXTURE[3 + 3 * c + k], MIXTURE[9 + 3 * c + k]) for c in range(2)] for k in range(3)]
    wanted = [special.logsumexp([weights[k] + tables[k][0][a] + tables[k][1][b] for k in range(3)]) for a, b in pairs]
    got = Logistic(components=3).log_prob(parameters(MIXTURE, 50), tensor(GRAYS[pairs][:, None, None, :]))
    np.testing.assert_allclose(array(got), wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("numbers", [SHARP, WIDE, AWAY, (-1.6, -0.5), (-1.0, -4.0), (1.0, -3.0)])
def test_the_mean_is_that_of_the_256_intensities(numbers: tuple[float, float]) -> None:
    """The mean is not the location: a wide distribution around black is gray on average."""
    wanted = GRAYS @ np.exp(log_mass(*numbers))
    assert array(Logistic().mean(parameters(numbers, 1)))[0, 0, 0, 0] == pytest.approx(wanted, abs=BIN / 2)


def test_mean_and_mode_of_a_mixture() -> None:
    weights, locations = special.softmax(MIXTURE[:3]), np.reshape(MIXTURE[3:9], (2, 3))
    observation = Logistic(components=3)
    means = [
        [GRAYS @ np.exp(log_mass(MIXTURE[3 + 3 * c + k], MIXTURE[9 + 3 * c + k])) for k in range(3)] for c in (0, 1)
    ]
    got = array(observation.mean(parameters(MIXTURE, 1)))[0, 0, 0]
    np.testing.assert_allclose(got, means @ weights, atol=BIN / 2)
    np.testing.assert_allclose(array(observation.mode(parameters(MIXTURE, 1)))[0, 0, 0], locations[:, 2], rtol=1e-5)


def test_components_of_the_mixture_begin_at_different_places() -> None:
    """Equal components would have equal gradients, and stay equal."""
    first = parameters(Logistic(components=4).initial(3), 1)
    _, location, log_scale = Logistic(components=4)._split(first)
    np.testing.assert_allclose(array(location)[0, 0, 0, 1], [-0.75, -0.25, 0.25, 0.75])
    assert array(log_scale).std() == 0.0


# ---- Gaussian --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", ["shared", "pixel"])
def test_gaussian_agrees_with_scipy(deviation: str) -> None:
    rng = np.random.default_rng(0)
    mean, x = rng.standard_normal((2, 3, 2, 2, 3))
    raw = np.full((3, 2, 2, 1), -1.3) if deviation == "shared" else rng.standard_normal(mean.shape)
    observation = Gaussian(deviation=deviation, pixels=False)
    got = observation.log_prob(tensor(np.concatenate([mean, raw], axis=-1)), tensor(x))
    spread = np.exp(-7.0 + np.logaddexp(0.0, raw + 7.0))
    np.testing.assert_allclose(array(got), stats.norm(mean, spread).logpdf(x).sum((1, 2, 3)), rtol=1e-5)


def test_the_dithered_density_is_below_the_probability_of_the_image() -> None:
    """On average over the dither it is below (Jensen), and close if the density is flat over a bin."""
    for mean, deviation, gap in ((0.1, 0.3, 1e-3), (0.113, 0.02, 0.05), (0.113, 0.004, 2.0)):
        raw = math.log(math.expm1(math.log(deviation) + 7.0)) - 7.0
        grid = (np.arange(400) + 0.5) / 400 - 0.5
        x = GRAYS[140] + BIN * grid
        observation = Gaussian()
        density = array(observation.log_prob(parameters((mean, raw), 400), tensor(x[:, None, None, None]))).mean()
        mass = np.log(np.diff(stats.norm(mean, deviation).cdf([GRAYS[140] - BIN / 2, GRAYS[140] + BIN / 2])))[0]
        assert density <= mass + 1e-3
        assert density == pytest.approx(mass, abs=gap)


# ---- Bernoulli -------------------------------------------------------------------------------------------------------


def test_bernoulli_agrees_with_scipy() -> None:
    logits = np.linspace(-30, 30, 12).reshape(1, 2, 2, 3)
    x = np.where(np.arange(12).reshape(1, 2, 2, 3) % 2, 1.0, -1.0)
    wanted = np.where(x > 0, special.log_expit(logits), special.log_expit(-logits)).sum()
    assert array(Bernoulli().log_prob(tensor(logits), tensor(x)))[0] == pytest.approx(wanted, rel=1e-5)


def test_gray_is_a_mean_over_black_and_white() -> None:
    black, white, gray = (
        array(Bernoulli().log_prob(tensor([[[[0.7]]]]), tensor([[[[value]]]])))[0] for value in (-1.0, 1.0, 0.5)
    )
    assert gray == pytest.approx(0.25 * black + 0.75 * white, rel=1e-5)
    assert array(Bernoulli().mean(tensor([[[[0.7]]]])))[0, 0, 0, 0] == pytest.approx(2 * special.expit(0.7) - 1)


# ---- samples ---------------------------------------------------------------------------------------------------------


def draws(observation: Any, numbers: Any, count: int = 4000) -> np.ndarray:
    keys = np.random.default_rng(1).integers(-(2**31), 2**31, (count, 2), dtype=np.int64).astype(np.int32)
    return array(observation.sample(parameters(numbers, count), ops.convert_to_tensor(keys)))[:, 0, 0]


@pytest.mark.parametrize("numbers", [(0.9, -2.0), (0.1, -4.0)])
def test_logistic_samples_have_its_probabilities(numbers: tuple[float, float]) -> None:
    found = np.rint((draws(Logistic(), numbers)[:, 0] + 1.0) / BIN).astype(int)
    cumulated = np.cumsum(np.exp(log_mass(*numbers)))
    empirical = np.cumsum(np.bincount(found, minlength=256)) / len(found)
    assert np.abs(empirical - cumulated).max() < 1.63 / math.sqrt(len(found))  # Kolmogorov and Smirnov, 1 %


def test_a_mixture_is_sampled_by_its_weights() -> None:
    numbers = (*MIXTURE[:9], *(-6.0,) * 6)
    found = draws(Logistic(components=3), numbers)
    nearest = np.abs(found[:, :1] - np.array(MIXTURE[3:6])).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest) / len(found), special.softmax(MIXTURE[:3]), atol=0.03)
    # the channels of a pixel come from the same component
    assert np.abs(found[nearest == 2, 1] - MIXTURE[8]).mean() < 0.02


@pytest.mark.backends
def test_gaussian_and_bernoulli_samples() -> None:
    found = draws(Gaussian(deviation="pixel"), (0.2, -2.0))
    assert stats.kstest(found[:, 0], stats.norm(0.2, math.exp(-2.0 + math.log1p(math.exp(-5)))).cdf).pvalue > 0.01
    found = draws(Bernoulli(), (0.8,))
    assert set(np.unique(found)) == {-1.0, 1.0}
    assert (found > 0).mean() == pytest.approx(special.expit(0.8), abs=0.025)


# ---- scales ----------------------------------------------------------------------------------------------------------


def test_the_smallest_scale_is_far_below_usual_scales() -> None:
    np.testing.assert_allclose(array(floored(tensor([-100.0, -7.0, 0.0, 3.0]), -7.0)), [-7, -6.306853, 0, 3], atol=1e-3)


def test_the_nearest_of_256() -> None:
    np.testing.assert_allclose(array(to_8_bits(tensor(GRAYS + 0.4 * BIN))), GRAYS, atol=1e-6)
    np.testing.assert_allclose(array(to_8_bits(tensor([-3.0, 3.0]))), [-1.0, 1.0])


def test_densities_integrate_to_one() -> None:
    grid = np.linspace(-4, 4, 4001)
    density = np.exp(
        array(Gaussian(pixels=False).log_prob(parameters((0.3, -1.0), len(grid)), tensor(grid[:, None, None, None])))
    )
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)
