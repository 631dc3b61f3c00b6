"""KL divergences and bounds, compared with torch.distributions and with a linear model of known likelihood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_vae import generator
from kgen_plugin_vae.bound import importance_weighted_bound
from kgen_plugin_vae.generator import VAE
from kgen_plugin_vae.latents import Latent, total_kl
from kgen_plugin_vae.networks import Network
from kgen_plugin_vae.observations import Gaussian
from scipy import special, stats

from kgen import ConditionSpace, Space

pytestmark = pytest.mark.portable

TINY = Network(width=4, multipliers=(1,), attention=())


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def latent(shape: tuple[int, ...], seed: int) -> tuple[Latent, tuple[np.ndarray, ...]]:
    eps, shift, log_ratio = np.random.default_rng(seed).standard_normal((3, *shape))
    return Latent(tensor(eps), tensor(shift), tensor(0.5 * log_ratio)), (eps, shift, 0.5 * log_ratio)


# ---- one level -------------------------------------------------------------------------------------------------------


def test_kl_and_densities_are_those_of_torch() -> None:
    """It also holds in the coordinates of z, with a prior that is not N(0, I)."""
    torch = pytest.importorskip("torch")
    q, (eps, shift, log_ratio) = latent((3, 2, 2, 4), 0)
    rng = np.random.default_rng(9)
    mean, deviation = rng.standard_normal((3, 2, 2, 4)), np.exp(rng.standard_normal((3, 2, 2, 4)))
    prior = torch.distributions.Normal(torch.tensor(mean), torch.tensor(deviation))
    posterior = torch.distributions.Normal(
        torch.tensor(mean + deviation * shift), torch.tensor(deviation * np.exp(log_ratio))
    )
    wanted = torch.distributions.kl_divergence(posterior, prior).numpy()
    np.testing.assert_allclose(array(q.kl()), wanted.sum((1, 2)), rtol=1e-5)
    z = torch.tensor(mean + deviation * (shift + np.exp(log_ratio) * eps))
    ratio = (prior.log_prob(z) - posterior.log_prob(z)).numpy().sum((1, 2, 3))
    np.testing.assert_allclose(array(q.log_prior_over_posterior()), ratio, rtol=1e-4)


def test_kl_of_a_unit_shift_is_half_a_nat() -> None:
    q = Latent(tensor([[0.3]]), tensor([[1.0]]), tensor([[0.0]]))
    np.testing.assert_allclose(array(q.kl()), [[0.5]])
    np.testing.assert_allclose(array(Latent(q.eps, 0.0 * q.shift, q.log_ratio).kl()), [[0.0]])


def test_free_bits_are_a_channels_of_an_example() -> None:
    vector, cells = latent((3, 4), 1)[0], latent((3, 2, 2, 5), 2)[0]
    by_hand = sum(np.maximum(array(level.kl()), 3.0).sum(1) for level in (vector, cells))
    np.testing.assert_allclose(array(total_kl([vector, cells], 3.0)), by_hand, rtol=1e-5)
    np.testing.assert_allclose(array(total_kl([vector, cells], 0.0)), array(total_kl([vector, cells])))
    assert (by_hand > array(total_kl([vector, cells])) + 0.1).all()


# ---- many samples ----------------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_running_sum_of_weights_is_logsumexp(scale: float) -> None:
    weights = (scale * np.random.default_rng(0).standard_normal((7, 5)) - 3000.0).astype("float32")
    table = tensor(weights)
    got = array(importance_weighted_bound(lambda k: ops.take(table, k, axis=0), 7))
    np.testing.assert_allclose(got, special.logsumexp(weights.astype(float), axis=0) - math.log(7), rtol=1e-6)
    np.testing.assert_allclose(array(importance_weighted_bound(lambda k: ops.take(table, k, axis=0), 1)), weights[0])


# ---- a linear model (Tipping and Bishop 1999) ------------------------------------------------------------------------

SIZE, LATENTS, NOISE = 12, 3, 0.3  # an image is 2x2x3


class Linear:
    """x = W u + c + noise, with the posterior N(A (x - c), diag(spread^2)). It replaces both networks."""

    def __init__(self, spoil: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((SIZE, LATENTS)))[0]
        self.weights = basis * np.array([1.5, 0.8, 0.4])  # orthogonal columns: the true posterior is diagonal
        self.center = 0.2 * rng.standard_normal(SIZE)
        precision = 1.0 + (self.weights**2).sum(0) / NOISE**2
        self.inference = (self.weights / NOISE**2 / precision).T + spoil * rng.standard_normal((LATENTS, SIZE))
        self.log_ratio = -0.5 * np.log(precision) + spoil
        self.covariance = self.weights @ self.weights.T + NOISE**2 * np.eye(SIZE)

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        return stats.multivariate_normal(self.center, self.covariance).logpdf(x.reshape(-1, SIZE))

    def bottom_up(self, x: Any, condition: Any) -> Any:
        return [ops.matmul(ops.reshape(x, (-1, SIZE)) - tensor(self.center), tensor(self.inference.T))]

    def top_down(self, noise: Any, condition: Any, features: Any) -> Any:
        log_ratio = ops.zeros_like(features[0]) + tensor(self.log_ratio)
        q = Latent(noise[0], features[0], log_ratio)
        mean = ops.reshape(ops.matmul(q.u, tensor(self.weights.T)) + tensor(self.center), (-1, 2, 2, 3))
        raw = math.log(math.expm1(math.log(NOISE) + 7.0)) - 7.0
        return ops.concatenate([mean, ops.zeros_like(mean[..., :1]) + raw], axis=-1), [q]


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    model = Linear()
    rng = np.random.default_rng(5)
    return rng.multivariate_normal(model.center, model.covariance, 400).reshape(-1, 2, 2, 3).astype("float32")


def linear_vae(model: Linear) -> VAE:
    vae = VAE(
        Space("continuous", (2, 2, 3)),
        ConditionSpace(1, 1),
        network=TINY,
        observation=Gaussian(pixels=False),
        vector=LATENTS,
    )
    vars(vae).update(bottom_up=model.bottom_up, top_down=model.top_down)  # PyTorch refuses attributes but layers
    return vae


def test_with_the_true_posterior_the_weights_are_the_likelihood(data: np.ndarray) -> None:
    """p(x, z) / q(z | x) = p(x) for every z, so the number of samples does not matter."""
    model = Linear()
    bound = array(linear_vae(model).log_likelihood(tensor(data), {}, samples=3))
    np.testing.assert_allclose(bound, model.log_likelihood(data), rtol=1e-3, atol=2e-3)


def averaged(monkeypatch: pytest.MonkeyPatch, vae: VAE, data: np.ndarray, samples: int, times: int = 30) -> float:
    """Returns the bound's mean over data and random numbers; `log_likelihood` uses the same numbers for every row."""
    found = []
    for seed in range(times):
        monkeypatch.setattr(generator, "LIKELIHOOD_KEY", (seed, 1))
        found.append(array(vae.log_likelihood(tensor(data), {}, samples=samples)).mean())
    return float(np.mean(found))


def test_the_elbo_is_the_likelihood_on_average_and_the_loss_its_negative(data: np.ndarray, monkeypatch) -> None:
    model = Linear()
    exact = model.log_likelihood(data).mean()
    vae = linear_vae(model)
    assert averaged(monkeypatch, vae, data, 1) == pytest.approx(exact, abs=0.25)
    losses = {name: array(loss).mean() for name, loss in vae.compute_losses(tensor(data), {}, False).items()}
    assert -(losses["reconstruction"] + losses["kl"]) == pytest.approx(exact, abs=0.25)
    assert losses["loss"] == pytest.approx(-exact / (math.log(2) * SIZE), abs=0.03)


def test_more_samples_close_the_gap_of_a_wrong_posterior(data: np.ndarray, monkeypatch) -> None:
    """Tests Burda et al. 2016, theorem 1, and the ELBO's gap in closed form, KL(q || true posterior)."""
    model, ideal = Linear(spoil=0.1), Linear()
    exact = model.log_likelihood(data).mean()
    vae = linear_vae(model)
    bounds = {k: averaged(monkeypatch, vae, data, k, times) for k, times in ((1, 30), (2, 20), (10, 8), (100, 1))}
    assert bounds[1] + 0.3 < bounds[2] < bounds[10] - 0.3 < bounds[100] - 0.3 < exact + 0.1
    assert bounds[100] == pytest.approx(exact, abs=0.15)
    error = (data.reshape(-1, SIZE) - model.center) @ (model.inference - ideal.inference).T
    variance, ratio = np.exp(2 * ideal.log_ratio), np.exp(2 * (model.log_ratio - ideal.log_ratio))
    gap = 0.5 * (error**2 / variance + ratio - 1.0 - np.log(ratio)).sum(1)
    assert exact - bounds[1] == pytest.approx(gap.mean(), abs=0.25)
