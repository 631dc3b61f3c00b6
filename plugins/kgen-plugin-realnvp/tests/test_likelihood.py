"""Densities integrate to 1, and bound the probabilities of 8-bit images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_realnvp.bijections import ActNorm, AffineCoupling, Bijection, Chain, ChannelMixing
from kgen_plugin_realnvp.couplings import Transformer
from kgen_plugin_realnvp.dequantization import normal_log_density
from kgen_plugin_realnvp.generator import RealNVP
from kgen_plugin_realnvp.masks import checkerboard, halves
from kgen_plugin_realnvp.networks import ConvolutionalNetwork
from scipy import special, stats

from kgen import ConditionSpace, Space, bits_per_dimension
from kgen.backend.devices import as_graph
from kgen.random import normal, uniform

pytestmark = pytest.mark.portable

CONDITIONS = ConditionSpace(4, 12)
CONDITION_SHAPE = {"sequence": (None, 4, 12), "mask": (None, 4), "pooled": (None, 12)}
TINY = Transformer(patch=1, couplings=4, width=8, heads=2)


def rows_of(condition: dict[str, Any], count: int) -> dict[str, Any]:
    """Repeats the same text for every row."""
    return {name: ops.repeat(value[:1], count, axis=0) for name, value in condition.items()}


def two_pixels(**options: Any) -> RealNVP:
    return RealNVP(Space("continuous", (1, 2, 1)), CONDITIONS, coupling=TINY, **options)


# ---- in two dimensions -----------------------------------------------------------------------------------------------


def of_pixels() -> tuple[Bijection, tuple[int, int, int]]:
    return TINY.build(Space("continuous", (1, 2, 1)), 2.0), (1, 2, 1)


def of_channels() -> tuple[Bijection, tuple[int, int, int]]:
    mask, steps = halves(1, 1, 2), []
    for i in range(4):
        network = ConvolutionalNetwork(4, 8, 1, name="network")
        steps += [ActNorm(name=f"norm{i}"), ChannelMixing(name=f"mixing{i}")]
        steps += [AffineCoupling(mask if i % 2 else 1.0 - mask, network, name=f"coupling{i}")]
    return Chain(steps), (1, 1, 2)


def of_a_row() -> tuple[Bijection, tuple[int, int, int]]:
    mask = checkerboard(2, 1, 1)
    networks = [ConvolutionalNetwork(2, 8, 1, text_heads=2, name="network") for _ in range(4)]
    masks = (mask, 1.0 - mask, mask, 1.0 - mask)
    couplings = [AffineCoupling(*pair, name=f"coupling{i}") for i, pair in enumerate(zip(masks, networks, strict=True))]
    return Chain(couplings), (2, 1, 1)


@pytest.mark.parametrize("scale", [0.1, 0.2])
@pytest.mark.parametrize("make", [of_pixels, of_channels, of_a_row])
def test_a_density_integrates_to_1(make: Callable[[], Any], scale: float, randomize, condition_of, array) -> None:
    flow, shape = make()
    flow.build((None, *shape), CONDITION_SHAPE)
    randomize(flow, scale)
    condition = condition_of(1)
    noise = np.random.default_rng(0).standard_normal((2000, *shape)).astype("float32")
    sample = array(flow.inverse(ops.convert_to_tensor(noise), rows_of(condition, 2000))).reshape(-1, 2)
    low, high = sample.min(0), sample.max(0)
    low, high = low - 0.5 * (high - low), high + 0.5 * (high - low)
    axes = [np.linspace(a, b, 250, dtype="float32") for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, *shape)
    z, log_det = flow(ops.convert_to_tensor(grid), rows_of(condition, len(grid)))
    density = np.exp(array(normal_log_density(z) + log_det).astype("float64"))
    assert density.sum() * np.prod((high - low) / 249) == pytest.approx(1.0, abs=0.01)


# ---- 8-bit images --------------------------------------------------------------------------------------------------


def test_probabilities_of_all_images_sum_to_1(randomize, condition_of, array) -> None:
    """There are 65536 images of two pixels. With equal noise in every bin, this is a Riemann sum of the density."""
    flow = two_pixels(alpha=1e-3)
    randomize(flow, 0.15)
    levels = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).reshape(-1, 1, 2, 1)
    x = (levels / 127.5 - 1.0).astype("float32")
    log_likelihood = array(flow.log_likelihood(ops.convert_to_tensor(x), rows_of(condition_of(1), len(x))))
    assert np.exp(log_likelihood.astype("float64")).sum() == pytest.approx(1.0, abs=0.01)


def test_an_identity_flow_is_logistic(condition_of, array) -> None:
    """Before training, f is the identity: the density of the images is that of a logit-normal distribution."""
    flow = two_pixels(alpha=1e-6)
    levels = np.array([10, 128, 200, 255]).reshape(2, 1, 2, 1)
    edges = special.logit(1e-6 + (1 - 2e-6) * np.stack([levels, levels + 1]) / 256)
    exact = np.log(np.diff(stats.norm.cdf(edges), axis=0)[0]).sum((1, 2, 3))
    x = ops.convert_to_tensor((levels / 127.5 - 1.0).astype("float32"))
    condition = condition_of(2)
    found = array(as_graph(lambda: flow.log_likelihood(x, condition, samples=24))())
    np.testing.assert_allclose(found, exact, atol=0.15)
    assert (bits_per_dimension(found, 2) > 0).all()


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_the_likelihood_of_one_sample_agrees_with_autodiff(
    dequantization: str, randomize, condition_of, slogdet, array
) -> None:
    """Expects log p - log q of one dequantized image, in units of levels, so that the volume of a bin is 1."""
    shape, condition = (2, 2, 2), condition_of(3)
    coupling = Transformer(patch=2, couplings=4, width=8, heads=2)
    flow = RealNVP(Space("continuous", shape), CONDITIONS, coupling=coupling, dequantization=dequantization)
    randomize(flow, 0.1)
    levels = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype("float32")
    keys = ops.convert_to_tensor(np.array([[0, 1912]] * 3, "int32"))
    sample = uniform if dequantization == "uniform" else normal
    noise = sample(keys, ops.convert_to_tensor(np.int32(0)), shape)
    u, log_q = noise, 0.0
    if dequantization == "variational":
        u = flow.dequantizer(levels, noise, condition)[0]
        log_q = stats.norm.logpdf(array(noise)).sum((1, 2, 3))
        log_q = log_q - slogdet(lambda rows: flow.dequantizer(levels, rows, condition)[0], array(noise))

    def to_noise(real: Any) -> Any:
        squashed = flow.alpha + (1.0 - 2.0 * flow.alpha) * real / 256.0
        return flow.flow(ops.log(squashed / (1.0 - squashed)), condition)[0]

    real = levels + array(u)
    wanted = stats.norm.logpdf(array(to_noise(ops.convert_to_tensor(real)))).sum((1, 2, 3)) + slogdet(to_noise, real)
    x = ops.convert_to_tensor(levels / np.float32(127.5) - np.float32(1.0))
    np.testing.assert_allclose(array(flow.log_likelihood(x, condition)), wanted - log_q, atol=2e-3)


def test_the_label_of_the_bound_has_the_number_of_samples() -> None:
    flow = two_pixels(alpha=0.01)
    assert flow.likelihood == "lower bound"
    assert flow.likelihood_label() == "a bound of 1 sample"
    assert flow.likelihood_label(samples=16) == "a bound of 16 samples"
    latents = RealNVP(Space("continuous", (2, 2, 2), bounded=False), CONDITIONS, coupling=Transformer(patch=2, width=8))
    assert latents.likelihood_label() == "exact"


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_bounds_hold_and_become_tight(dequantization: str, randomize, condition_of, array) -> None:
    """Compares the bounds with the probability of a bin, by quadrature of a density that is steep within it."""
    flow = two_pixels(dequantization=dequantization, alpha=0.01)
    randomize(flow.flow, 0.15)
    randomize(flow.dequantizer, 0.02)  # wide enough for samples to cover the bin
    for deviation in flow.flow.statistics_variables()[3::2]:
        deviation.assign([1.0])
    flow.flow.steps[1].deviation.assign([0.012])  # after the logit, a bin is about 0.016 wide
    condition, count, rng = condition_of(1), 4000, np.random.default_rng(0)
    likely = array(flow.generate(condition, condition, {"latent": ops.zeros((1, 1, 2, 1))}))
    levels = np.round((likely + 1.0) * 127.5)  # (1, 1, 2, 1)
    middles = (np.arange(100, dtype="float32") + 0.5) / 100
    u = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2, 1)
    exact = special.logsumexp(log_p(flow, levels + u, condition, array)) - math.log(len(u))
    noise = rng.random((count, 1, 2, 1)) if dequantization == "uniform" else rng.standard_normal((count, 1, 2, 1))
    text = rows_of(condition, count)
    u, log_q = flow.dequantizer(ops.convert_to_tensor(np.repeat(levels, count, 0)), tensor(noise), text)
    weights = log_p(flow, levels + array(u), condition, array) - array(log_q)
    error = 4 * weights.std() / math.sqrt(count)
    assert weights.mean() + error < exact  # Jensen's inequality, and strictly
    assert special.logsumexp(weights) - math.log(count) == pytest.approx(
        exact, abs=0.1 if dequantization == "uniform" else 0.3
    )
    x = tensor(levels / 127.5 - 1.0)
    one, many = (
        float(array(as_graph(lambda samples=samples: flow.log_likelihood(x, condition, samples=samples))())[0])
        for samples in (1, 40)
    )
    assert many == pytest.approx(exact, abs=0.5)
    assert abs(many - exact) < abs(one - exact)


def log_p(flow: RealNVP, real: np.ndarray, condition: dict[str, Any], array: Any) -> np.ndarray:
    """Returns the log-density of dequantized levels."""
    text = rows_of(condition, len(real))
    y, log_det = flow.logit(tensor(real / 256.0), text)
    z, more = flow.flow(y, text)
    return array(normal_log_density(z) + log_det + more) - 2 * math.log(256.0)


def tensor(x: np.ndarray) -> Any:
    return ops.convert_to_tensor(np.asarray(x, "float32"))
