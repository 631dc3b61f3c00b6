"""The variational bound on Gaussian data, whose exact likelihood is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.bound import END_LOG_SNR, _reconstruction, variational_bound
from scipy import stats

import kgen
from kgen import bits_per_dimension

SCHEDULES = {name: kgen.part("diffusion.schedule", name) for name in ("linear", "cosine", "rectified-flow", "karras")}

SPREAD = 0.5


def ideal(x, alpha, sigma, level):
    return alpha * SPREAD**2 * x / ((alpha * SPREAD) ** 2 + sigma**2)


def bound_per_number(compiled, denoise, schedule: str, steps: int, data: np.ndarray) -> float:
    """Returns the bound of one "image" of independent numbers, divided by their count."""

    def of_density(x):
        return variational_bound(denoise, x, SCHEDULES[schedule], steps, discrete=False, end_log_snr=9.21)

    bound = compiled(of_density, x=data)
    return float(bound[0]) / data.size


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return (SPREAD * np.random.default_rng(0).standard_normal((1, 4000))).astype("float32")


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_it_is_a_bound_and_tight_at_1000_steps(compiled, schedule: str, data: np.ndarray) -> None:
    exact = stats.norm(0, SPREAD).logpdf(data).mean()
    bound = bound_per_number(compiled, ideal, schedule, 1000, data)
    assert exact - 0.05 <= bound <= exact
    assert bound_per_number(compiled, ideal, schedule, 30, data) < bound - 0.1  # few steps: a looser bound


def test_a_worse_model_has_a_lower_bound(compiled, data: np.ndarray) -> None:
    def wrong(x, alpha, sigma, level):
        return 0.7 * ideal(x, alpha, sigma, level)

    right, worse = (bound_per_number(compiled, denoise, "cosine", 200, data) for denoise in (ideal, wrong))
    assert worse < right - 0.1


def test_discretized_data_are_counted_in_bits_of_256_values() -> None:
    """For a model that knows the image, only the last level's noise costs: it may leave the bin."""
    data = ops.convert_to_tensor((np.array([[0, 17, 128, 255]]) / 127.5 - 1.0).astype("float32"))

    def knows(x, alpha, sigma, level):
        return data

    for end, schedule in ((9.21, "linear"), (12.0, "cosine"), (END_LOG_SNR, "rectified-flow")):
        bound = variational_bound(knows, data, SCHEDULES[schedule], 10, end_log_snr=end)
        hit = stats.norm.cdf(math.exp(end / 2) / 255)  # of the upper edge of a bin; 0 and 255 have only one edge
        bits = -(2 * math.log2(hit) + 2 * math.log2(2 * hit - 1)) / 4
        assert bits_per_dimension(ops.convert_to_numpy(bound), 4)[0] == pytest.approx(bits, rel=0.01, abs=7e-4)
    assert bits < 0.05
    assert bits_per_dimension(math.log(1 / 256) * 4, 4) == pytest.approx(8.0)


@pytest.mark.backends
@pytest.mark.parametrize("miss", [0.02, 0.1, 0.7])
def test_it_stays_a_bound_far_from_the_truth(miss: float) -> None:
    """L_0 of an image with an error of `miss`, compared with the exact mass of the bin."""
    data = ops.convert_to_tensor(np.array([[0.5 * 2 / 255 * 127 + 1 / 255]], "float32"))
    alpha, sigma = ops.convert_to_tensor(np.float32(1.0)), ops.convert_to_tensor(np.float32(0.01))
    cost = float(ops.convert_to_numpy(_reconstruction(data, data - miss, alpha, sigma, (1,), True))[0])
    deviation = 0.01
    upper, lower = (miss + 1 / 255) / deviation, (miss - 1 / 255) / deviation
    exact = -(stats.norm.logsf(lower) + math.log1p(-math.exp(stats.norm.logsf(upper) - stats.norm.logsf(lower))))
    # the loss is at most the change of the log-density within the bin
    assert exact * (1 - 1e-4) <= cost <= exact + (upper**2 - lower**2) / 2 + 1.0


@pytest.mark.parametrize(
    ("schedule", "grays"), [("rectified-flow", (127, 128, 129)), ("cosine", (60, 128, 200)), ("karras", (9, 90, 91))]
)
def test_a_perfect_model_of_three_grays_pays_little_more_than_their_entropy(
    compiled, schedule: str, grays: tuple[int, ...]
) -> None:
    """One pixel, sampled 4,000 times: with the exact posterior mean, the bound is near log p."""
    shares = np.array([0.3, 0.2, 0.5])
    values = np.array(grays, "float32") * 2 / 255 - 1
    pixels = np.repeat(values, (4000 * shares).astype(int))[None]

    def mean(x, alpha, sigma, level):
        centers, prior = (ops.convert_to_tensor(v.astype("float32")) for v in (values, np.log(shares)))
        scores = -0.5 * ((x[..., None] - alpha * centers) / sigma) ** 2 + prior
        return ops.sum(ops.softmax(scores) * centers, axis=-1)

    bound = compiled(lambda x: variational_bound(mean, x, SCHEDULES[schedule], 1000), x=pixels)
    exact = -float(np.sum(shares * np.log2(shares)))
    assert exact == pytest.approx(1.485, abs=1e-3)
    assert exact < bits_per_dimension(bound, pixels.size)[0] < exact + 0.06
