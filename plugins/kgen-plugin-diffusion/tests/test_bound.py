"""The variational bound on Gaussian data, whose exact likelihood is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.bound import bits_per_dimension, variational_bound
from kgen_plugin_diffusion.schedules import SCHEDULES
from scipy import stats

SPREAD = 0.5


def ideal(x, alpha, sigma, level):
    return alpha * SPREAD**2 * x / ((alpha * SPREAD) ** 2 + sigma**2)


def mean_bound(schedule: str, steps: int, count: int = 4000) -> tuple[float, float]:
    """The bound and the exact log-likelihood, averaged over data of one dimension, each with noise of its own."""
    data = (SPREAD * np.random.default_rng(0).standard_normal((count, 1))).astype("float32")
    wide = ops.convert_to_tensor(data.reshape(1, count))  # one "picture" of independent numbers
    bound = variational_bound(ideal, wide, SCHEDULES[schedule], steps, discrete=False)
    return float(ops.convert_to_numpy(bound)[0]) / count, stats.norm(0, SPREAD).logpdf(data).mean()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rectified-flow"])
def test_it_is_a_bound_and_tight_at_1000_steps(schedule: str) -> None:
    bound, exact = mean_bound(schedule, 1000)
    assert exact - 0.05 <= bound <= exact + 0.005  # the noise of the estimate may lift it a little
    assert mean_bound(schedule, 20)[0] < bound  # few steps: a looser bound


def test_a_worse_model_has_a_lower_bound() -> None:
    data = ops.convert_to_tensor((SPREAD * np.random.default_rng(0).standard_normal((1, 4000))).astype("float32"))

    def wrong(x, alpha, sigma, level):
        return 0.7 * ideal(x, alpha, sigma, level)

    bounds = [
        float(ops.convert_to_numpy(variational_bound(d, data, SCHEDULES["cosine"], 200, discrete=False))[0])
        for d in (ideal, wrong)
    ]
    assert bounds[1] < bounds[0] - 100


def test_discretised_data_are_counted_in_bits_of_256_values() -> None:
    """Pictures of one known intensity: an ideal model needs next to no bits; one that knows nothing, about 8."""
    values = np.array([[0, 17, 128, 255]])
    data = ops.convert_to_tensor((values / 127.5 - 1.0).astype("float32"))

    def knows(x, alpha, sigma, level):
        return data

    bound = variational_bound(knows, data, SCHEDULES["linear"], 1000)
    assert 0.0 <= float(ops.convert_to_numpy(bits_per_dimension(bound, 4))[0]) < 0.2
    assert bits_per_dimension(math.log(1 / 256) * 4, 4) == pytest.approx(8.0)
