"""Every number from equal features, compared with scipy, torch-fidelity, prdc and scikit-image."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from kgen_plugin_metrics.formulas.extrapolation import distance_of_infinitely_many
from kgen_plugin_metrics.formulas.frechet import frechet_distance
from kgen_plugin_metrics.formulas.inception_score import inception_score
from kgen_plugin_metrics.formulas.kernel import kernel_distance
from kgen_plugin_metrics.formulas.moments import Moments, MomentStream
from kgen_plugin_metrics.formulas.neighbors import _squared_distances, density_coverage, precision_recall
from kgen_plugin_metrics.formulas.pairs import psnr, ssim

from kgen import DataError

torch = pytest.importorskip("torch")


def features(count: int, dim: int, seed: int, rank: int | None = None, shift: float = 0.0) -> np.ndarray:
    """Positive features, as after a ReLU, of which `rank` dimensions are independent."""
    random = np.random.default_rng(seed)
    rank = rank or dim
    mixing = random.normal(size=(rank, dim)) / np.sqrt(rank)
    return np.asarray((random.gamma(1.0, size=(count, rank)) + shift) @ mixing + 1.0, np.float32)


CASES = {
    "more images than dimensions": (features(300, 24, 0), features(200, 24, 1, shift=0.2)),
    "fewer images than dimensions": (features(20, 64, 0), features(30, 64, 1, shift=0.2)),
    "rank-deficient": (features(200, 32, 0, rank=10), features(150, 32, 1, rank=20, shift=0.1)),
    "one image fewer than dimensions": (features(32, 32, 0), features(33, 32, 1)),
}


def distance(x: np.ndarray, y: np.ndarray) -> float:
    a, b = Moments.of(x), Moments.of(y)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


@pytest.mark.parametrize("case", CASES)
def test_frechet_distance_is_that_of_scipy_and_of_torch_fidelity(case: str, torch_fidelity: Any) -> None:
    x, y = CASES[case]
    found = distance(x, y)
    first, second = (np.cov(z.astype(np.float64), rowvar=False) for z in (x, y))
    apart = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    root = np.trace(scipy.linalg.sqrtm(first @ second)).real
    assert found == pytest.approx(apart @ apart + np.trace(first) + np.trace(second) - 2 * root, rel=1e-4)
    told = [torch_fidelity.fid.fid_features_to_statistics(torch.tensor(z, dtype=torch.float64)) for z in (x, y)]
    assert found == pytest.approx(
        torch_fidelity.fid.fid_statistics_to_metric(*told, False)["frechet_inception_distance"], rel=1e-4
    )


def test_frechet_distance_in_closed_form() -> None:
    """Of N(0, I) and N(0.25, 1.5^2 I) in 64 dimensions: 64 (0.25^2 + 0.5^2) = 20. Of equal ones: 0."""
    eye = np.eye(64)
    assert frechet_distance(np.zeros(64), eye, np.full(64, 0.25), 2.25 * eye) == pytest.approx(20.0, rel=1e-12)
    for x, _ in CASES.values():
        assert distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(np.zeros(3), np.zeros((3, 3)), np.ones(3), np.zeros((3, 3))) == pytest.approx(3.0)


def test_moments_stream_and_merge() -> None:
    """Also where the mean is a thousand times the deviation, which sums of squares in float32 would not survive."""
    x = features(1500, 12, 0) + 1000.0
    whole = Moments.of(x)
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)
    one, other, empty = (MomentStream(12) for _ in range(3))
    for start in range(0, 1500, 70):
        (one if start < 600 else other).add(x[start : start + 70])
    one.merge(empty.moments())
    empty.merge(other.moments())
    one.merge(empty.moments())
    found = one.moments()
    assert found.count == 1500
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=1e-9, atol=1e-12)


def test_memory_does_not_grow_with_the_images() -> None:
    def peak(count: int) -> int:
        random, stream = np.random.default_rng(0), MomentStream(64)
        tracemalloc.start()
        for _ in range(count // 50):
            stream.add(random.normal(size=(50, 64)).astype(np.float32))
        stream.moments()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(50)
    assert peak(20_000) < 1.05 * peak(1_000)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(DataError, match="a covariance needs at least 2 images, not 1: use more images"):
        distance(features(1, 4, 0), features(9, 4, 1))
    with pytest.raises(DataError, match="not finite"):
        Moments.of(np.array([[1.0, np.nan]]))


@pytest.mark.parametrize("case", CASES)
def test_kernel_distance_is_that_of_torch_fidelity(case: str, torch_fidelity: Any) -> None:
    x, y = CASES[case]
    found = kernel_distance(x, y, subsets=5, subset_size=15, seed=7)
    told = torch_fidelity.kid.kid_features_to_metric(
        *(torch.tensor(z, dtype=torch.float64) for z in (x, y)),
        kid_subsets=5,
        kid_subset_size=15,
        rng_seed=7,
        verbose=False,
    )
    assert found[0] == pytest.approx(told["kernel_inception_distance_mean"], rel=1e-4)
    assert found[1] == pytest.approx(told["kernel_inception_distance_std"], rel=1e-4)


def test_kernel_distance_has_no_bias() -> None:
    """The mean over many small sets of one distribution is 0, within four standard errors; the biased one is not."""
    random = np.random.default_rng(0)
    found = [kernel_distance(*random.normal(size=(2, 10, 6)), subsets=1, subset_size=10, seed=0)[0] for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    with pytest.raises(DataError, match="a subset of 11 images cannot be taken from 10 generated and 12 real images"):
        kernel_distance(np.ones((10, 2)), np.ones((12, 2)), subset_size=11)


@pytest.mark.parametrize("seed", [None, 2020])
def test_inception_score_is_that_of_torch_fidelity(seed: int | None, torch_fidelity: Any) -> None:
    logits = np.random.default_rng(0).normal(scale=4.0, size=(53, 30)).astype(np.float32)
    found = inception_score(logits, splits=5, seed=seed)
    told = torch_fidelity.isc.isc_features_to_metric(torch.tensor(logits), 5, seed is not None, seed or 0)
    assert found == pytest.approx(tuple(told.values()), rel=1e-6)
    with pytest.raises(DataError, match="3 images cannot be divided into 5 parts"):
        inception_score(logits[:3], splits=5)


def test_inception_score_in_closed_form() -> None:
    """Certain and equally frequent classes: their number. Equal images: 1."""
    assert inception_score(np.eye(8) * 1000.0, splits=1) == pytest.approx((8.0, 0.0))
    assert inception_score(np.ones((6, 8)), splits=2) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_torch_fidelity(case: str, k: int, torch_fidelity: Any) -> None:
    x, y = CASES[case]
    told = torch_fidelity.prc.calculate_precision_recall_full(
        *(torch.tensor(z, dtype=torch.float64) for z in (x, y)), neighborhood=k
    )
    assert precision_recall(x, y, k=k) == pytest.approx(told, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_are_those_of_prdc(case: str, k: int, capsys: Any) -> None:
    prdc = pytest.importorskip("prdc")
    x, y = CASES[case]
    told = prdc.compute_prdc(*(z.astype(np.float64) for z in (y, x)), nearest_k=k)
    assert density_coverage(x, y, k=k) == pytest.approx((told["density"], told["coverage"]), rel=1e-4)
    assert precision_recall(x, y, k=k) == pytest.approx((told["precision"], told["recall"]), rel=1e-4)


def test_neighbors_of_equal_images_and_of_too_few() -> None:
    """Equal features are at the distance 0, which rounding does not make larger than the radius of a ball."""
    x = features(40, 50, 3)
    far_from_zero = x.astype(np.float64) * 1000.0 + 1e5
    assert precision_recall(far_from_zero[::-1], np.repeat(far_from_zero, 4, axis=0), k=3) == (1.0, 1.0)
    ((_, squares),) = _squared_distances(far_from_zero, far_from_zero)
    assert (np.diagonal(squares) == 0.0).all() and np.count_nonzero(squares) == 40 * 39
    far = precision_recall(x + 100.0, x)
    assert far == (0.0, 0.0)
    for compare in (precision_recall, density_coverage):
        with pytest.raises(DataError, match="the 4 nearest neighbors of an image need more images than 4"):
            compare(x, x[:4], k=4)


def test_rows_of_distances_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = CASES["fewer images than dimensions"]
    whole = precision_recall(x, y), density_coverage(x, y)
    monkeypatch.setattr("kgen_plugin_metrics.formulas.neighbors.ROWS", 7)
    assert (precision_recall(x, y), density_coverage(x, y)) == whole


def test_extrapolation_removes_the_bias() -> None:
    """The exact distance is 1.6: the means are 0.1 apart in 10 dimensions, and the deviations 1 and 0.6127."""
    dim, scale = 10, 1.0 - np.sqrt(0.15)
    exact = dim * (0.1**2 + (1.0 - scale) ** 2)
    reference = np.full(dim, 0.1), scale**2 * np.eye(dim)
    plain, found = [], []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(600, dim))
        plain.append(distance_of(x[:60], reference))
        found.append(distance_of_infinitely_many(x, *reference, smallest=60, points=10, seed=seed).distance)
    assert exact == pytest.approx(1.6)
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 0.3 * abs(np.mean(plain) - exact)


def distance_of(x: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> float:
    a = Moments.of(x)
    return frechet_distance(a.mean, a.covariance, *reference)


def test_extrapolation_gives_the_error_of_the_line() -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    reference = np.zeros(4), np.eye(4)
    found = distance_of_infinitely_many(x, *reference, smallest=20, points=6)
    assert found.counts[0] == 20 and found.counts[-1] == 200 and len(found.distances) == 6
    line, covariance = np.polyfit(1 / np.array(found.counts), found.distances, 1, cov=True)
    assert found.distance == pytest.approx(line[1]) and found.error == pytest.approx(np.sqrt(covariance[1, 1]))
    with pytest.raises(DataError, match="there must be more images than 200"):
        distance_of_infinitely_many(x, *reference, smallest=200)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_are_those_of_scikit_image(channels: int) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    random = np.random.default_rng(0)
    x = np.kron(random.integers(0, 256, (3, 6, 7, channels)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    y = np.clip(x + random.normal(scale=20, size=x.shape), 0, 255).astype(np.uint8)
    wanted = [
        skimage.structural_similarity(
            *pair, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for pair in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y), wanted, rtol=1e-6)
    wanted = [skimage.peak_signal_noise_ratio(*pair, data_range=255) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y), wanted, rtol=1e-9)
    np.testing.assert_allclose(ssim(x, x), 1.0)
    assert np.isinf(psnr(x, x)).all()
    with pytest.raises(DataError, match="at least 11x11 pixels, not 10x28"):
        ssim(x[:, :10], y[:, :10])
    with pytest.raises(DataError, match="of one shape"):
        psnr(x, y[:2])
