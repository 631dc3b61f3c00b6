"""Each bijection's inverse, and its log-determinant compared with automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from keras import ops
from kgen_plugin_realnvp.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    ChannelMixing,
    FactorOut,
    Logit,
    Squeeze,
    Unsqueeze,
)
from kgen_plugin_realnvp.couplings import Convolutional, Transformer
from kgen_plugin_realnvp.dequantization import VariationalDequantizer, normal_log_density
from kgen_plugin_realnvp.masks import checkerboard, halves, squeezed_checkerboard
from kgen_plugin_realnvp.networks import ConvolutionalNetwork, TransformerNetwork
from scipy import stats

from kgen import Space

pytestmark = pytest.mark.portable

CONDITION_SHAPE = {"sequence": (None, 4, 12), "mask": (None, 4), "pooled": (None, 12)}
Shape = tuple[int, int, int]


def convolutional(mask: np.ndarray, text_heads: int = 0) -> AffineCoupling:
    return AffineCoupling(mask, ConvolutionalNetwork(2 * mask.shape[-1], 8, 1, text_heads, name="network"))


def transformer(mask: np.ndarray, text_heads: int = 0) -> AffineCoupling:
    return AffineCoupling(mask, TransformerNetwork(2 * mask.shape[-1], 8, 1, 2, text_heads, name="network"))


def flow(coupling: Convolutional | Transformer, shape: Shape) -> Bijection:
    return coupling.build(Space("continuous", shape), 2.0)


CASES: dict[str, tuple[Callable[[], Bijection], Shape]] = {
    **{
        f"{network.__name__} on {name}": (lambda network=network, mask=mask: network(mask), mask.shape)
        for network in (convolutional, transformer)
        for name, mask in {
            "checkerboard": checkerboard(4, 4, 1),
            "the other checkerboard": 1.0 - checkerboard(2, 3, 2),
            "half of the channels": halves(2, 2, 4),
            "the other half": 1.0 - halves(2, 2, 3),
            "squeezed checkerboard": squeezed_checkerboard(2, 2, 4, 2),
        }.items()
    },
    "convolutional with words": (lambda: convolutional(halves(2, 2, 4), text_heads=2), (2, 2, 4)),
    "transformer with words": (lambda: transformer(halves(2, 2, 4), text_heads=2), (2, 2, 4)),
    "actnorm": (ActNorm, (2, 3, 2)),
    "mixing": (ChannelMixing, (2, 2, 4)),
    "squeeze": (Squeeze, (2, 4, 2)),
    "squeeze by 3": (lambda: Squeeze(3), (3, 3, 1)),
    "unsqueeze": (Unsqueeze, (1, 2, 8)),
    "factor out": (lambda: FactorOut(transformer(checkerboard(2, 2, 2))), (2, 2, 4)),
    "chain": (lambda: Chain([ActNorm(name="a"), ChannelMixing(name="b"), Squeeze(name="c")]), (2, 2, 3)),
    "flow of 2 scales": (lambda: flow(Convolutional(scales=2, couplings=2, width=8), (4, 4, 1)), (4, 4, 1)),
    "flow without mixing": (
        lambda: flow(Convolutional(scales=1, couplings=3, width=8, mixing=False), (2, 2, 3)),
        (2, 2, 3),
    ),
    "flow of patches": (lambda: flow(Transformer(patch=2, couplings=6, width=8, heads=2), (4, 4, 1)), (4, 4, 1)),
    "flow of two numbers": (lambda: flow(Transformer(patch=1, couplings=4, width=8, heads=2), (1, 2, 1)), (1, 2, 1)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Bijection, Shape]:
    make, shape = CASES[request.param]
    bijection = make()
    bijection.build((None, *shape), CONDITION_SHAPE)
    return bijection, shape


def gentle(bijection: Bijection, scale: float) -> float:
    """Reduces the scale for long chains, whose Jacobians would be too ill-conditioned for float32."""
    return 0.25 * scale if len(getattr(bijection, "steps", [])) > 4 else scale


def numbers(shape: Shape, count: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def test_the_inverse_recovers_the_input(case, randomize, condition_of, array) -> None:
    bijection, shape = case
    randomize(bijection, gentle(bijection, 0.4))
    x, condition = numbers(shape), condition_of(3)
    y, _ = bijection(x, condition)
    assert tuple(y.shape) == bijection.compute_output_shape((3, *shape))
    np.testing.assert_allclose(array(bijection.inverse(y, condition)), x, rtol=0, atol=1e-4)
    z = numbers(y.shape[1:])
    again, _ = bijection(bijection.inverse(ops.convert_to_tensor(z), condition), condition)
    np.testing.assert_allclose(array(again), z, rtol=0, atol=1e-4)


def test_log_determinant(case, randomize, condition_of, slogdet, array) -> None:
    bijection, shape = case
    randomize(bijection, gentle(bijection, 0.4))
    x, condition = numbers(shape, 2), condition_of(2)
    found = np.broadcast_to(array(bijection(x, condition)[1]), 2)
    wanted = slogdet(lambda rows: bijection(rows, condition)[0], x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    moves = all(isinstance(step, Squeeze | Unsqueeze) for step in getattr(bijection, "steps", [bijection]))
    assert moves or np.abs(found).min() > 1e-3


def test_log_determinants_of_a_chain_add_up_with_its_steps(randomize, condition_of, slogdet, array) -> None:
    """The chain's steps change the shape."""
    chain = Chain(
        [
            Squeeze(name="down"),
            convolutional(halves(2, 2, 4)),
            FactorOut(Chain([ActNorm(name="inner"), Unsqueeze(1)], name="rest"), name="out"),
            Unsqueeze(name="up"),
            transformer(checkerboard(4, 4, 1), text_heads=2),
        ]
    )
    chain.build((None, 4, 4, 1), CONDITION_SHAPE)
    randomize(chain, 0.3)
    x, condition = numbers((4, 4, 1)), condition_of(3)
    wanted = slogdet(lambda rows: chain(rows, condition)[0], x)
    np.testing.assert_allclose(array(chain(x, condition)[1]), wanted, atol=1e-4)


# ---- logit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_logit(alpha: float, slogdet, array) -> None:
    logit = Logit(alpha)
    x = np.random.default_rng(0).uniform(0, 1, (3, 2, 2, 3)).astype("float32")
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0
    y, log_det = logit(x, {})
    np.testing.assert_allclose(array(y), scipy.special.logit(alpha + (1 - 2 * alpha) * x), atol=1e-3 * 2, rtol=1e-5)
    np.testing.assert_allclose(array(logit.inverse(y, {})), x, atol=1e-6)
    np.testing.assert_allclose(array(log_det), slogdet(lambda rows: logit(rows, {})[0], x), atol=1e-4, rtol=1e-5)


# ---- masks and squeezing ---------------------------------------------------------------------------------------------


def test_masks_are_those_of_the_paper() -> None:
    np.testing.assert_array_equal(checkerboard(2, 3, 1)[..., 0], [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(checkerboard(2, 3, 2)[..., 1], checkerboard(2, 3, 1)[..., 0])
    np.testing.assert_array_equal(halves(1, 2, 4)[0], [[1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(halves(1, 1, 3)[0, 0], [1, 0, 0])


@pytest.mark.parametrize(("shape", "factor"), [((4, 6, 2), 2), ((6, 3, 2), 3), ((3, 5, 2), 1)])
def test_squeeze_and_its_checkerboard(shape: Shape, factor: int, array) -> None:
    height, width, channels = shape
    x = np.arange(np.prod(shape), dtype="float32").reshape(1, *shape)
    y = array(Squeeze(factor)(x, {})[0])
    mask = squeezed_checkerboard(*y.shape[1:], factor)
    for row, column, channel in np.ndindex(shape):
        place = (row % factor * factor + column % factor) * channels + channel
        assert y[0, row // factor, column // factor, place] == x[0, row, column, channel]
        assert mask[row // factor, column // factor, place] == (row + column + 1) % 2
    assert y.shape == (1, height // factor, width // factor, channels * factor**2)


# ---- couplings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [convolutional, transformer])
@pytest.mark.parametrize("mask", [checkerboard(4, 4, 1), 1.0 - halves(2, 2, 3)])
def test_a_coupling_changes_only_the_masked_values(make, mask: np.ndarray, randomize, condition_of, array) -> None:
    coupling = make(mask, text_heads=2)
    coupling.build((None, *mask.shape), CONDITION_SHAPE)
    x, condition = numbers(mask.shape), condition_of(3)
    start, log_det = coupling(x, condition)
    np.testing.assert_array_equal(array(start), x)  # before training
    np.testing.assert_array_equal(array(log_det), 0.0)
    randomize(coupling, 0.3)
    y, other = array(coupling(x, condition)[0]), array(coupling(x, condition_of(3, seed=1))[0])
    np.testing.assert_array_equal(y[:, mask == 1], x[:, mask == 1])
    assert np.abs(y - x)[:, mask == 0].min() > 1e-5
    assert np.abs(y - other)[:, mask == 0].max() > 1e-3  # the text matters


@pytest.mark.parametrize("make", [convolutional, transformer])
def test_padded_words_are_not_read(make, randomize, condition_of, array) -> None:
    mask = halves(2, 2, 4)
    coupling = make(mask, text_heads=2)
    coupling.build((None, *mask.shape), CONDITION_SHAPE)
    randomize(coupling, 0.3)
    x, condition = numbers(mask.shape), condition_of(3)
    words = array(condition["sequence"])
    for word, matters in ((2, True), (3, False)):
        changed = np.array(words)
        changed[:, word] = 9.0
        sequences = (ops.convert_to_tensor(s) for s in (words, changed))
        y, other = (array(coupling(x, {**condition, "sequence": s})[0]) for s in sequences)
        assert (np.abs(y - other).max() > 1e-5) == matters


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_scales_are_bounded(bound: float, randomize, condition_of, array) -> None:
    """With any weights, a coupling that changes 6 elements scales volumes by at most exp(6 bound)."""
    mask = halves(1, 2, 6)
    coupling = AffineCoupling(mask, ConvolutionalNetwork(12, 8, 1, name="network"), bound)
    coupling.build((None, *mask.shape), CONDITION_SHAPE)
    randomize(coupling, 30.0)
    log_det = array(coupling(numbers(mask.shape, 8), condition_of(8))[1])
    assert np.abs(log_det).max() <= 6 * bound * (1 + 1e-6)
    x = ops.zeros((1, *mask.shape))
    log_scale, _ = coupling._affine(x, condition_of(1))
    np.testing.assert_allclose(np.abs(array(log_scale)).max(), bound, rtol=1e-3)


def test_values_that_are_factored_out_stay_unchanged(randomize, condition_of, array) -> None:
    bijection = FactorOut(convolutional(checkerboard(2, 2, 2)))
    bijection.build((None, 2, 2, 4), CONDITION_SHAPE)
    randomize(bijection, 0.3)
    x, condition = numbers((2, 2, 4)), condition_of(3)
    y = array(bijection(x, condition)[0])
    np.testing.assert_array_equal(y[..., 2:], x[..., 2:])
    np.testing.assert_allclose(y[..., :2], array(bijection.rest(x[..., :2], condition)[0]), atol=1e-6)


# ---- normalization and mixing ----------------------------------------------------------------------------------------


def test_actnorm_measures(condition_of, array) -> None:
    norm = ActNorm()
    norm.build((None, 4, 4, 2))
    x = 3.0 * numbers((4, 4, 2), 5) + 2.0
    statistics: list[Any] = []
    y = array(norm.measure(ops.convert_to_tensor(x), {}, statistics))
    np.testing.assert_allclose(array(statistics[0]), x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(array(statistics[1]), x.std((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1.0, rtol=1e-4)
    for variable, statistic in zip(norm.statistics_variables(), statistics, strict=True):
        variable.assign(statistic)
    np.testing.assert_allclose(array(norm(x, {})[0]), y, atol=1e-5)


def test_actnorm_leaves_constant_channels_their_scale(condition_of, array) -> None:
    """Six of them in a row keep a difference in such a channel, and do not amplify it by 1e18."""
    chain = Chain([ActNorm(name=f"norm{i}") for i in range(6)])
    chain.build((None, 4, 4, 2))
    x = 3.0 * numbers((4, 4, 2), 5)
    x[..., 1] = 0.6
    statistics: list[Any] = []
    chain.measure(ops.convert_to_tensor(x), {}, statistics)
    for variable, statistic in zip(chain.statistics_variables(), statistics, strict=True):
        variable.assign(statistic)
    y, log_det = chain(x + 0.01, {})
    np.testing.assert_allclose(array(y)[..., 1], 0.01, rtol=1e-4)
    np.testing.assert_allclose(array(log_det), -16 * np.log(x[..., 0].std()), rtol=1e-4)


@pytest.mark.backends
def test_mixing_starts_as_a_rotation(array) -> None:
    mixing = ChannelMixing()
    mixing.build((None, 2, 2, 5))
    matrix = array(mixing(np.eye(5, dtype="float32").reshape(1, 5, 1, 5), {})[0]).reshape(5, 5)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-5)
    assert np.abs(matrix - np.eye(5)).max() > 0.1


# ---- variational dequantization --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 3, 2), (1, 2, 1)])
def test_density_of_dequantizing_noise(shape: Shape, randomize, condition_of, slogdet, array) -> None:
    dequantizer = VariationalDequantizer(width=8)
    dequantizer.build((None, *shape), CONDITION_SHAPE)
    randomize(dequantizer, 0.2)
    noise, condition = numbers(shape), condition_of(3)
    levels = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype("float32")
    u, log_density = dequantizer(levels, noise, condition)
    wanted = stats.norm.logpdf(noise).sum((1, 2, 3))
    wanted = wanted - slogdet(lambda rows: dequantizer(levels, rows, condition)[0], noise)
    np.testing.assert_allclose(array(log_density), wanted, atol=1e-4)
    other, _ = dequantizer(255.0 - levels, noise, condition)
    assert np.abs(array(u) - array(other)).max() > 1e-3  # it depends on the image


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0])
def test_dequantizing_noise_stays_in_its_bin(scale: float, randomize, condition_of, array) -> None:
    """With any weights and noise, u is in [0, 1) and densities are finite."""
    dequantizer = VariationalDequantizer(width=8)
    dequantizer.build((None, 2, 2, 3), CONDITION_SHAPE)
    randomize(dequantizer, scale)
    noise = 5.0 * numbers((2, 2, 3), 64)
    levels = np.random.default_rng(0).integers(0, 256, noise.shape).astype("float32")
    u, log_density = (array(value) for value in dequantizer(levels, noise, condition_of(64)))
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert u.std() > 0.1
    assert np.isfinite(log_density).all()


def test_normal_log_density(array) -> None:
    x = numbers((2, 3, 2))
    np.testing.assert_allclose(array(normal_log_density(x)), stats.norm.logpdf(x).sum((1, 2, 3)), rtol=1e-5)
