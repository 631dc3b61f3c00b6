"""A decoder without losses that measures the images (a principal component analysis) is calibrated by its run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import kgen
from kgen.config import RunConfig
from kgen.data.datasets.shapes import Shapes
from kgen.errors import ConfigError
from kgen.experiments.directory import RunDirectory
from kgen.pipeline.loading import load
from kgen.plugins.discovery import registry
from kgen.runs.run import check, run
from kgen.spaces import ConditionSpace

pytestmark = pytest.mark.portable

SOURCE = """\
import keras, numpy as np
from keras import ops
import kgen

class PCA(kgen.Decoder):
    def __init__(self, image_space, *, components: int = 12, **kwargs):
        super().__init__(image_space, **kwargs)
        self.components = components

    def build(self, input_shape=None):
        size, count = self.image_space.size, self.components
        add = lambda name, shape: self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
        self.mean, self.basis, self.scale = add("mean", (size,)), add("basis", (size, count)), add("scale", (count,))

    @property
    def latent_space(self):
        return kgen.Space("continuous", (self.components,), bounded=False)

    def calibrate(self, batches):
        x = np.concatenate([b.reshape(len(b), -1) / 127.5 - 1.0 for b in batches])
        mean = x.mean(0)
        _, sizes, basis = np.linalg.svd(x - mean, full_matrices=False)
        self.mean.assign(mean)
        self.basis.assign(basis[: self.components].T)
        self.scale.assign(sizes[: self.components] / len(x) ** 0.5)

    def encode(self, images):
        x = ops.reshape(images, (-1, self.image_space.size)) - self.mean
        return (x @ self.basis) / ops.maximum(self.scale, 1e-6)

    def decode(self, latent, condition, noise):
        return ops.reshape((latent * self.scale) @ ops.transpose(self.basis) + self.mean, (-1, *self.image_space.shape))

class Gauss(kgen.Generator):
    def __init__(self, space, condition_space, **kwargs):
        super().__init__(space, condition_space, **kwargs)
        self.mean = keras.layers.Dense(space.size)

    def compute_losses(self, x, condition, training):
        return {"loss": ops.mean(ops.square(x - self.mean(condition["pooled"])), axis=1)}

    def noise_spec(self):
        return {"z": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(self, condition, null_condition, noise):
        return self.mean(condition["pooled"]) + noise["z"]

class Measured(Gauss):
    def __init__(self, space, condition_space, **kwargs):
        super().__init__(space, condition_space, **kwargs)
        add = lambda name, shape: self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
        self.seen, self.mask, self.average = add("seen", (2,)), add("mask", ()), add("average", space.shape)

    def initialize(self, batches):
        x, masks = (np.concatenate(arrays) for arrays in zip(*((x, given["mask"]) for x, given in batches)))
        self.seen.assign([len(x), self.seen[1] + 1])
        self.mask.assign(masks.sum())
        self.average.assign((x**3).mean(0))

@kgen.hookimpl
def kgen_components(registry):
    registry.generator("measured", f"{__name__}:Measured", summary="A normal distribution, and the mean")
    registry.decoder("pca", f"{__name__}:PCA", summary="Principal components")
    registry.generator("gauss", f"{__name__}:Gauss", summary="A normal distribution")
"""


@pytest.fixture(autouse=True)
def plugin(site: Any) -> Iterator[None]:
    site.install("linear", SOURCE)
    registry.cache_clear()
    yield
    registry.cache_clear()


def configuration(*changes: str) -> RunConfig:
    config = {
        "data": {"name": "shapes", "size": 16, "count": 60},
        "encoder": "text/bag",
        "generator": "linear/gauss",
        "decoder": {"name": "linear/pca"},
        "fit": {"steps": 2, "batch_size": 8},
        "sample": {"every": 0, "prompts": ["a large red circle in the middle"]},
    }
    return RunConfig.from_dict(config, changes)


def test_a_run_calibrates_it_once_and_others_import_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    run(configuration(), tmp_path / "run", log=logged.append)
    assert any("calibrated on 60 images" in text for text in logged)
    pipeline = load(tmp_path / "run")
    data = Shapes(size=16, count=60)
    images = np.stack([data.image("train", i) for i in range(60)]) / 127.5 - 1.0
    singular = np.linalg.svd((images - images.mean(0)).reshape(60, -1), compute_uv=False)
    made = pipeline.decoder
    latents = array(made.encode(tensor(images)))
    np.testing.assert_allclose(latents.std(0), 1.0, rtol=1e-4)
    error = np.square(array(made.decode(made.encode(tensor(images)), {}, {})) - images).sum()
    np.testing.assert_allclose(error, np.square(singular[12:]).sum(), rtol=1e-3)  # Eckart and Young
    manifest = RunDirectory(tmp_path / "run").decoder_stage.read_manifest()
    assert manifest["step"] == 0 and manifest["finished"] and manifest["scores"]["PSNR"] > 10

    def never(*arguments: Any) -> None:
        raise AssertionError("it is calibrated again")

    monkeypatch.setattr("kgen.runs.decoder_stage.save_decoder", never)
    run(configuration("fit.steps=3"), tmp_path / "run", restart=True, log=logged.append)
    assert any("nothing that it depends on has changed" in text for text in logged)
    run(configuration(f"decoder={{from: {tmp_path / 'run'}}}"), tmp_path / "other")
    taken = load(tmp_path / "other").decoder
    np.testing.assert_array_equal(array(taken.basis), array(made.basis))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["finished"]


def test_a_generator_measures_the_latents_before_its_training(tmp_path: Path) -> None:
    logged: list[str] = []
    measured = ("generator=linear/measured", "data.count=50")
    run(configuration(*measured), tmp_path / "run", log=logged.append)
    assert any("measures the latents of all training images" in text for text in logged)
    pipeline, data = load(tmp_path / "run"), Shapes(size=16, count=50)
    generator, images = pipeline.generator, np.stack([data.image("train", i) for i in range(50)]) / 127.5 - 1.0
    latents = array(pipeline.decoder.encode(tensor(images)))
    np.testing.assert_allclose(array(generator.average), (latents**3).mean(0), atol=1e-2)  # the cache has float16
    count = len(data.captions("train"))
    assert array(generator.seen).tolist() == [count, 1] and array(generator.mask) >= count
    run(configuration(*measured, "fit.steps=3"), tmp_path / "run")
    assert array(load(tmp_path / "run").generator.seen).tolist() == [count, 1]  # it is not measured again
    start = f"init={{from: {tmp_path / 'run'}, include: [generator/*]}}"
    other = configuration("generator=linear/measured", "data.count=20", start)
    run(other, tmp_path / "other")
    np.testing.assert_array_equal(array(load(tmp_path / "other").generator.average), array(generator.average))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("decoder.fit={steps: 3}", "no losses to train by, and is only calibrated: leave 'fit' out"),
        ("decoder={name: linear/pca, from: RUN, data: shapes}", "leave out one of the two"),
    ],
)
def test_its_configuration_has_no_fit(change: str, message: str, tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").prepare(configuration())
    with pytest.raises(ConfigError, match=message):
        configuration(change.replace("RUN", str(tmp_path / "run")))


def test_a_decoder_that_is_not_calibrated_is_refused(tmp_path: Path) -> None:
    check(configuration())
    parts = {"encoder": "text/bag", "generator": "linear/gauss", "dataset": Shapes(size=16, count=6)}
    with pytest.raises(ConfigError, match=r"'linear/pca' must be calibrated on images.*make_decoder"):
        kgen.assemble(**parts, decoder="linear/pca")
    decoder = kgen.make_decoder("linear/pca", Shapes(size=16).image_space, ConditionSpace(1, 1))
    decoder.build(None)
    decoder.calibrate([np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)])
    kgen.assemble(**parts, decoder=decoder)


def tensor(images: np.ndarray) -> Any:
    return ops.convert_to_tensor(images.astype("float32"))


def array(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value))
