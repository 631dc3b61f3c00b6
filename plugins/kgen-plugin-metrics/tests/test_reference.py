"""Statistics of real images: their cache, and the files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kgen_plugin_metrics.features.pixels import Pixels
from kgen_plugin_metrics.formulas.moments import Moments
from kgen_plugin_metrics.metrics.frechet import Frechet
from kgen_plugin_metrics.metrics.kernel import KernelDistance
from kgen_plugin_metrics.reference.cached import moments_of, reference_features, statistics
from kgen_plugin_metrics.reference.files import read_statistics, write_statistics

from kgen import DataError, Dataset, GeneratedImages, RunError, make_dataset

NETWORK = Pixels(size=2)
RNG = np.random.default_rng(0)


def shapes(**options: Any) -> Dataset:
    return make_dataset({"name": "shapes", "size": 16, "count": 40, **options})


def features(count: int = 30) -> np.ndarray:
    return RNG.normal(size=(count, NETWORK.dim)).astype(np.float32)


def test_statistics_are_those_of_all_images_of_the_split() -> None:
    dataset = shapes()
    images = np.stack([dataset.image("train", row) for row in range(len(dataset.captions("train")))])
    own = NETWORK(images)["features"].astype(np.float64)
    found = statistics(NETWORK, dataset, "train")
    assert found.count == len(images)
    np.testing.assert_allclose(found.mean, own.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(own, rowvar=False), rtol=1e-6, atol=1e-9)
    rows, _ = reference_features(NETWORK, dataset, "train")
    np.testing.assert_allclose(rows, own, rtol=1e-6)


def test_statistics_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For other features, another dataset and another split, they are computed again."""
    calls: list[int] = []
    compute = Pixels.__call__
    monkeypatch.setattr(Pixels, "__call__", lambda self, x: calls.append(len(x)) or compute(self, x))

    def computed(network: Pixels, dataset: Dataset, split: Any) -> bool:
        calls.clear()
        moments_of(network, dataset, split)
        return bool(calls)

    dataset = shapes(holdout=["purple square"])
    assert computed(NETWORK, dataset, "train") and not computed(
        Pixels(size=2), shapes(holdout=["purple square"]), "train"
    )
    assert computed(Pixels(size=3), dataset, "train")
    assert computed(NETWORK, shapes(jitter=0.02), "train")
    assert computed(NETWORK, dataset, "holdout")
    calls.clear()
    for _ in range(2):
        reference_features(NETWORK, dataset, "train")
    assert sum(calls) == len(dataset.captions("train"))


@pytest.mark.parametrize("others", [{}, {"mu_s": np.zeros(3), "sigma_s": np.eye(3), "arr_0": np.zeros((2, 4, 4, 3))}])
def test_reads_the_files_of_pytorch_fid_and_of_guided_diffusion(tmp_path: Path, others: dict[str, Any]) -> None:
    x = features().astype(np.float64)
    mean, covariance = x.mean(0), np.cov(x, rowvar=False)
    np.savez(tmp_path / "real.npz", mu=mean, sigma=covariance, **others)
    found = read_statistics(tmp_path / "real.npz", NETWORK)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.covariance, covariance)
    assert found.count == 0 and not found.described


def test_writes_what_pytorch_fid_reads(tmp_path: Path) -> None:
    moments = Moments.of(features())
    write_statistics(tmp_path / "mine.npz", moments, NETWORK)
    with np.load(tmp_path / "mine.npz") as file:  # as pytorch-fid does
        np.testing.assert_array_equal(file["mu"][:], moments.mean)
        np.testing.assert_array_equal(file["sigma"][:], moments.covariance)
    found = read_statistics(tmp_path / "mine.npz", NETWORK)
    assert found.count == 30 and found.described
    with pytest.raises(RunError, match=r"mine\.npz exists: kgen replaces no file"):
        write_statistics(tmp_path / "mine.npz", moments, NETWORK)
    with pytest.raises(RunError, match="cannot be written"):
        write_statistics(tmp_path / "none" / "mine.npz", moments, NETWORK)


class Other(Pixels):
    """Features of the same number, and of another kind."""

    @property
    def protocol(self) -> Any:
        return {**super().protocol, "scaling": "2 x - 1"}


def test_statistics_of_other_features_are_refused(tmp_path: Path) -> None:
    moments = Moments.of(features())
    write_statistics(tmp_path / "mine.npz", moments, NETWORK)
    with pytest.raises(DataError, match=r"of other features: scaling is 'x / 255' there, and '2 x - 1' here"):
        read_statistics(tmp_path / "mine.npz", Other(size=2))
    with pytest.raises(DataError, match=r"mu \(12,\) and sigma \(12, 12\), but pixels-3 computes 27 features"):
        read_statistics(tmp_path / "mine.npz", Pixels(size=3))


def test_bad_files_are_named(tmp_path: Path) -> None:
    def message(path: Path, **arrays: Any) -> str:
        if arrays:
            np.savez(path, **arrays)
        with pytest.raises(DataError) as raised:
            read_statistics(path, NETWORK)
        assert str(path) in str(raised.value)
        return str(raised.value)

    mean, covariance = np.zeros(12), np.eye(12)
    path = tmp_path / "x.npz"
    assert "there is no file" in message(path)
    assert "holds no statistics: it has arr_0, but mu is needed" in message(
        path, arr_0=np.zeros((2, 4, 4, 3), np.uint8)
    )
    assert "finite symmetric matrix" in message(path, mu=mean, sigma=covariance + np.triu(np.ones((12, 12)), 1))
    assert "finite symmetric matrix" in message(path, mu=mean * np.nan, sigma=covariance)
    assert "not a mapping" in message(path, mu=mean, sigma=covariance, protocol=np.array("[1]"))
    np.savez(path, mu=mean, sigma=covariance)
    whole = path.read_bytes()
    for content in (whole[:300], b"no arrays", b""):
        path.write_bytes(content)
        assert "is not a file of arrays as numpy.savez writes" in message(path)
    with path.open("wb") as file:
        np.save(file, mean)
    assert "is not a file of arrays as numpy.savez writes" in message(path)
    np.savez(path, mu=np.array([{}], object), sigma=covariance)
    assert "is not a file of arrays" in message(path)


def test_features_of_published_images(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=images)
    found, source = reference_features(NETWORK, shapes(), str(tmp_path / "real.npz"))
    np.testing.assert_allclose(found, NETWORK(images)["features"], rtol=1e-6)
    assert source == "the images of real.npz"
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(12), sigma=np.eye(12))
    with pytest.raises(DataError, match="holds no images: it has mu, sigma, but arr_0 is needed"):
        reference_features(NETWORK, shapes(), str(tmp_path / "statistics.npz"))
    np.savez(tmp_path / "floats.npz", arr_0=images / 255)
    with pytest.raises(DataError, match="arr_0 must be images, uint8"):
        reference_features(NETWORK, shapes(), str(tmp_path / "floats.npz"))


def test_metrics_take_files(tmp_path: Path) -> None:
    """Against the statistics, or the images, of the dataset itself, they are the same numbers."""
    dataset = shapes()
    write_statistics(tmp_path / "own.npz", moments_of(NETWORK, dataset, "train"), NETWORK)
    images = np.stack([dataset.image("train", row) for row in range(len(dataset.captions("train")))])
    np.savez(tmp_path / "images.npz", arr_0=images)
    np.savez(tmp_path / "plain.npz", mu=np.zeros(12), sigma=np.eye(12))
    batch = GeneratedImages(RNG.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8), [""] * 30)

    def score(metric: Any) -> Any:
        metric.start(dataset, "train")
        metric.update(batch)
        return metric.compute()

    given = {"kind": "pixels", "size": 2}
    for kind, name, options in ((Frechet, "own", {}), (KernelDistance, "images", {"subsets": 2, "subset_size": 20})):
        metric = kind(features=given, reference=str(tmp_path / f"{name}.npz"), **options)
        assert score(metric) == pytest.approx(score(kind(features=given, **options)), rel=1e-9)
        assert f"{name}.npz" in metric.protocol()["reference"]
    assert not any(
        "does not say" in told for told in Frechet(features=given, reference=str(tmp_path / "own.npz")).caveats(dataset)
    )
    (told,) = Frechet(features=given, reference=str(tmp_path / "plain.npz")).caveats(dataset)
    assert "plain.npz does not say which features it holds" in told
