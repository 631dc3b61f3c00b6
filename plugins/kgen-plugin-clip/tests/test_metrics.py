"""The metrics by a trained model: their definitions, and the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_clip.encoders import Clip
from kgen_plugin_clip.images import Convolutional
from kgen_plugin_clip.metrics import CMMD, ClipScore, Embedder, ZeroShot, discrepancy
from kgen_plugin_clip.texts import Transformer
from PIL import Image

import kgen
from kgen.contracts.metric import GeneratedImages, measure
from kgen.data.datasets.shapes import Shapes
from kgen.plugins.discovery import registry
from kgen.testing import MetricConformance

pytestmark = pytest.mark.portable

DATA = Shapes(size=16, count=12, objects=1)


@pytest.fixture(scope="module", autouse=True)
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A saved pipeline whose encoder has random weights."""
    encoder = Clip(
        text=Transformer(width=8, depth=1, heads=2, length=12),
        image=Convolutional(size=16, width=4, multipliers=(1, 2)),
        dim=6,
    )
    encoder.adapt(DATA.captions("train"))
    network = {"kind": "dit", "width": 8, "depth": 1, "heads": 1}
    pipeline = kgen.assemble(
        encoder=encoder, generator={"name": "diffusion/diffusion", "network": network}, image_space=(16, 16, 3)
    )
    path = tmp_path_factory.mktemp("clip") / "model"
    kgen.save(pipeline, path)
    Saved.path = str(path)
    yield str(path)


class Saved:
    path = ""


class TestClipScore(MetricConformance):
    count: ClassVar[int] = 12

    def build(self) -> ClipScore:
        return ClipScore(model=Saved.path)

    def dataset(self) -> Shapes:
        return DATA


class TestCMMD(MetricConformance):
    count: ClassVar[int] = 12
    real: ClassVar[Any] = {"distance": (-1e-6, 1e-6)}

    def build(self) -> CMMD:
        return CMMD(model=Saved.path)

    def dataset(self) -> Shapes:
        return DATA


class TestZeroShot(MetricConformance):
    count: ClassVar[int] = 12

    def build(self) -> ZeroShot:
        return ZeroShot(model=Saved.path)

    def dataset(self) -> Shapes:
        return DATA


def test_zero_shot_finds_the_nearest_captions(saved: str) -> None:
    """Of the embeddings by the encoder itself; a prompt that is no caption of the dataset is never found."""
    encoder = kgen.load(saved).encoder
    images = np.stack([DATA.image("train", row) for row in range(6)])
    prompts = list(DATA.captions("train")[:6])
    classes = list(dict.fromkeys(DATA.captions("train")))
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(classes).items()}
    texts = ops.convert_to_numpy(encoder.embed_texts(tokens))
    shown = ops.convert_to_numpy(encoder.embed_images(ops.convert_to_tensor(images.astype("float32") / 127.5 - 1.0)))
    order = (-shown @ texts.T).argsort(axis=1)
    expected = {k: np.mean([prompts[i] in [classes[j] for j in order[i, :k]] for i in range(6)]) for k in (1, 5, 12)}
    found = measure(ZeroShot(model=saved, k=(1, 5, 12)), DATA, "train", [GeneratedImages(images, prompts)])
    assert found == {f"top {k}": value for k, value in expected.items()} and found["top 12"] == 1.0
    missing = measure(ZeroShot(model=saved, k=(12,)), DATA, "train", [GeneratedImages(images, ["a dog"] * 6)])
    assert missing["top 12"] == 0.0


def test_cmmd_compares_with_the_split_that_is_asked_for(saved: str) -> None:
    """The second evaluation starts anew."""
    data = Shapes(size=16, count=12, objects=1, holdout=["red circle"])
    metric = CMMD(model=saved, reference="holdout")
    held = np.stack([data.image("holdout", row) for row in range(len(data.captions("holdout")))])
    train = np.stack([data.image("train", row) for row in range(len(data.captions("train")))])
    embedder = Embedder(saved)
    found = [measure(metric, data, "train", [GeneratedImages(images, [""] * len(images))]) for images in (train, held)]
    expected = discrepancy(embedder.images(list(train)), embedder.images(list(held)))
    assert abs(found[0]["distance"] - expected) < 1e-6 < expected
    assert abs(found[1]["distance"]) < 1e-6


def test_classes_are_the_captions_of_all_splits(saved: str) -> None:
    """The caption of a held-out image is a class, too, so that one is found."""
    data = Shapes(size=16, count=12, objects=1, holdout=["red circle"])
    prompts = list(data.captions("holdout"))
    images = np.stack([data.image("holdout", row) for row in range(len(prompts))])
    classes = len({*data.captions("train"), *prompts})
    found = measure(ZeroShot(model=saved, k=(classes,)), data, "holdout", [GeneratedImages(images, prompts)])
    assert found == {f"top {classes}": 1.0}


def test_they_are_registered() -> None:
    assert registry().find("metric", "clip/zero-shot").load() is ZeroShot
    assert registry().find("metric", "clip/clip-score").load() is ClipScore
    assert registry().find("metric", "clip/cmmd").load() is CMMD


def test_the_score_is_a_hundred_cosines(saved: str) -> None:
    """The formula of torchmetrics, from the embeddings of the encoder itself."""
    encoder = kgen.load(saved).encoder
    images = np.stack([DATA.image("train", row) for row in range(5)])
    prompts = list(DATA.captions("train")[:5])
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(prompts).items()}
    texts = ops.convert_to_numpy(encoder.embed_texts(tokens))
    shown = ops.convert_to_numpy(encoder.embed_images(ops.convert_to_tensor(images.astype("float32") / 127.5 - 1.0)))
    expected = max(100.0 * float((texts * shown).sum(axis=1).mean()), 0.0)
    found = measure(ClipScore(model=saved), DATA, "train", [GeneratedImages(images, prompts)])
    assert abs(found["score"] - expected) < 1e-4


def test_cmmd_is_the_published_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((count, 5)) for count in (7, 9))
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        distances = np.square(a[:, None] - b[None]).sum(axis=-1)
        return float(np.exp(-distances / (2 * 10**2)).mean())

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert abs(discrepancy(x.astype("float32"), y.astype("float32")) - expected) < 1e-4
    opposite = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])
    assert abs(discrepancy(*opposite) - 2000 * (1 - np.exp(-4 / 200))) < 1e-9


def test_the_numbers_depend_on_the_weights(saved: str, tmp_path: Path) -> None:
    """The protocol says so: a copy of the model has the same, and other weights have another."""
    pipeline = kgen.load(saved)
    kgen.save(pipeline, tmp_path / "copy")
    names = ["copy"]
    for number in (0, -1):
        weight = pipeline.encoder.weights[number]
        before = ops.convert_to_numpy(weight)
        weight.assign(before + 1.0)
        names.append(f"other {number}")
        kgen.save(pipeline, tmp_path / names[-1])
        weight.assign(before)
    paths = [saved, *(str(tmp_path / name) for name in names)]
    first, copy, *others = (ClipScore(model=path).protocol()["model"] for path in paths)
    assert first == copy and len({first, *others}) == 3


def test_only_a_generator_with_the_same_encoder_is_favored(saved: str) -> None:
    encoder, metric = kgen.load(saved).encoder, ClipScore(model=saved)
    assert "judge by another model" in metric.bias_towards(encoder)
    encoder.weights[0].assign(encoder.weights[0] + 1.0)
    assert metric.bias_towards(encoder) == ""


def test_images_of_any_size_are_judged(saved: str) -> None:
    embedder = Embedder(saved)
    large = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    assert embedder.images([large, large[:16, :16]]).shape == (2, 6)


def test_models_without_both_towers_are_refused(tmp_path: Path) -> None:
    pipeline = kgen.assemble(
        encoder="text/none",
        generator={"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
        image_space=(16, 16, 3),
    )
    kgen.save(pipeline, tmp_path / "other")
    with pytest.raises(kgen.ConfigError, match=r"the encoder of .* is Unconditional: give a run with 'clip/clip'"):
        Embedder(str(tmp_path / "other"))
    with pytest.raises(kgen.RunError):
        Embedder(str(tmp_path / "nothing"))


def test_references_may_differ_in_shape(saved: str, tmp_path: Path) -> None:
    """The images of a folder, compared with themselves: the distance is 0. With others, it is not."""
    random = np.random.default_rng(0)
    for number, shape in enumerate(((20, 28, 3), (28, 20, 3), (24, 24, 3)) * 3):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("noise")
    data = kgen.make_dataset({"name": "imagefolder", "path": str(tmp_path), "size": 16, "resize": "bucket"})
    images = [data.image("train", row) for row in range(9)]
    assert len({image.shape for image in images}) == 3
    metric = CMMD(model=saved)
    batches = [GeneratedImages(image[None], ["noise"]) for image in images]
    assert abs(measure(metric, data, "train", batches)["distance"]) < 1e-6
    assert measure(metric, data, "train", batches[:1])["distance"] > 1e-3
    assert ClipScore.any_shape and ZeroShot.any_shape
