"""Runs whose images have several shapes: training, resuming, generating images of a given size, and what is refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import Outcome
from PIL import Image
from safetensors.numpy import load_file

import kgen
from kgen import ConfigError, SpaceError, make_dataset
from kgen.config import RunConfig
from kgen.errors import RunInterruptedError
from kgen.experiments.directory import RunDirectory
from kgen.runs.run import check, run
from kgen.training.journal import read_rows

pytestmark = pytest.mark.portable

DIT = {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
UNET = {"kind": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "head_dim": 8}

CODEC: dict[str, Any] = {
    "name": "codecs/kl-autoencoder",
    "channels": 2,
    "network": {"width": 4, "multipliers": [1], "patch": 2, "attention": False},
    "fit": {"steps": 6, "batch_size": 4, "log_every": 1, "checkpoint_every": 6},
}

Kgen = Callable[..., Outcome]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The content of a run file, with a folder of 30 images of mixed shapes."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(30):
        height, width = random.integers(18, 30, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(("red", "blue")[number % 2])
        os.utime(folder / f"{number:02}.png", (time.time() - 3600,) * 2)
    return {
        "name": "mixed",
        "data": {"name": "imagefolder", "path": str(folder), "size": 16, "resize": "bucket", "validation": 0.2},
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": {"name": "diffusion/diffusion", "network": DIT},
        "fit": {"steps": 6, "batch_size": 4, "log_every": 1, "validate_every": 3, "checkpoint_every": 6},
        "sample": {"prompts": ["red"], "options": {"steps": 1}},
    }


def read(config: dict[str, Any], tmp_path: Path) -> RunConfig:
    path = tmp_path / "mixed.yaml"
    path.write_text(yaml.safe_dump(config))
    return RunConfig.load(path)


def train_whole_and_in_parts(config: dict[str, Any], tmp_path: Path) -> None:
    """A run, and one whose trainings are interrupted at step 3, have the same weights."""
    loaded = read(config, tmp_path)
    run(loaded, tmp_path / "whole", log=lambda line: None)

    def interrupt(step: int, values: Any) -> None:
        if step == 3 and "loss" in values:
            signal.raise_signal(signal.SIGINT)

    for _ in range(2 if "decoder" in config else 1):
        with pytest.raises(RunInterruptedError):
            run(loaded, tmp_path / "parts", log=lambda line: None, on_metrics=lambda name, steps: interrupt)
    run(loaded, tmp_path / "parts", log=lambda line: None)
    for part in ("model", *(["decoder/model"] if "decoder" in config else [])):
        whole, parts = (load_file(tmp_path / name / part / "weights.safetensors") for name in ("whole", "parts"))
        assert whole.keys() == parts.keys() and all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    "network", [pytest.param(DIT, id="dit"), pytest.param(UNET, id="unet", marks=pytest.mark.slow)]
)
def test_a_run_trains_resumes_and_samples_in_every_shape(
    config: dict[str, Any], tmp_path: Path, network: dict[str, Any], kgen: Kgen
) -> None:
    config["generator"]["network"] = network
    train_whole_and_in_parts(config, tmp_path)
    rows = read_rows(tmp_path / "whole" / "metrics.csv")
    assert len([row for row in rows if row["val_loss"]]) == 2

    kgen("generate", tmp_path / "whole", "red", "-n", 2, "--size", "12x20", "--set", "steps=1", "-o", f"{tmp_path}/a/")
    files = sorted((tmp_path / "a").iterdir())
    assert [Image.open(file).size for file in files] == [(20, 12)] * 2
    refused = kgen("generate", tmp_path / "whole", "red", "--size", "12x19", "-o", f"{tmp_path}/b.png")
    refused.refuses("size 12x19 (height x width)", "divisible by", "12x19")
    kgen("generate", tmp_path / "whole", "red", "--size", "12", "-o", f"{tmp_path}/b.png").refuses("such as 96x64")


@pytest.mark.slow
def test_an_autoencoder_trains_and_its_latents_are_cached_in_every_shape(
    config: dict[str, Any], tmp_path: Path, kgen: Kgen
) -> None:
    config |= {"decoder": CODEC, "generator": {**config["generator"], "network": {**DIT, "patch": 2}}}
    train_whole_and_in_parts(config, tmp_path)
    data = make_dataset(config["data"])
    shapes = [shape for split in ("train", "validation") for shape in data.rows_by_shape(split)]
    assert len(shapes) > 4 and len(list((tmp_path / "cache").glob("latents-*"))) == len(shapes)
    scores = RunDirectory(tmp_path / "whole").decoder_stage.read_manifest("scores")["scores"]
    assert scores["images"] == "6 (validation)" and scores["PSNR"] > 0
    kgen("generate", tmp_path / "whole", "red", "-n", 2, "--size", "12x20", "--set", "steps=1", "-o", f"{tmp_path}/a/")
    assert [Image.open(file).size for file in sorted((tmp_path / "a").iterdir())] == [(20, 12)] * 2


@pytest.fixture
def pipeline() -> Any:
    return kgen.assemble(
        encoder="text/bag",
        generator={"name": "diffusion/diffusion", "network": DIT},
        image_space=(16, 16, 3),
        captions=["red", "blue"],
    )


def test_generate_makes_images_of_the_given_size(pipeline: Any, tmp_path: Path) -> None:
    options = {"steps": 1, "seed": 3}
    wide, square = (pipeline.generate(["red", "blue"], size=size, **options) for size in ((12, 20), None))
    assert wide.shape == (2, 12, 20, 3) and square.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(pipeline.generate(["red", "blue"], size=(16, 16), **options), square)
    np.testing.assert_array_equal(pipeline.generate("blue", size=(12, 20), **options)[0], wide[1])
    latents = pipeline.generate("red", size=(20, 12), output="latents", **options)
    assert latents.shape == (1, 20, 12, 3) and latents.dtype == np.float32
    assert pipeline.generate([], size=(20, 12)).shape == (0, 20, 12, 3)
    pipeline.save(tmp_path / "model")
    again = kgen.load(tmp_path / "model")
    np.testing.assert_array_equal(again.generate(["red", "blue"], size=(12, 20), **options), wide)


def test_an_image_to_start_from_has_the_given_size(pipeline: Any) -> None:
    image = np.zeros((12, 20, 3), np.uint8)
    assert pipeline.generate("red", image=image, size=(12, 20), steps=1).shape == (1, 12, 20, 3)
    with pytest.raises(ConfigError, match=r"must be uint8 \(16, 16, 3\)"):
        pipeline.generate("red", image=image, steps=1)


@pytest.mark.parametrize("size", [(12,), (12, 0), (12, 20, 3), 16, "12x20", (12.0, 20)])
def test_a_wrong_size_is_refused(pipeline: Any, size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size must be the height and width .* such as \(96, 64\)"):
        pipeline.generate("red", size=size)


def test_a_generator_of_one_shape_refuses_a_size() -> None:
    pipeline = kgen.assemble(encoder="text/bag", generator="gan/gan", image_space=(16, 16, 3), captions=["red"])
    with pytest.raises(SpaceError, match=r"size 12x20 .* Gan|GAN models latents of one shape"):
        pipeline.generate("red", size=(12, 20))


ONE = {"prompts": ["red"]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"generator": "gan/gan", "sample": ONE}, "models latents of one shape"),
    ({"generator": "realnvp/realnvp", "sample": ONE}, "models latents of one shape"),
    ({"generator": "vae/vae", "sample": ONE}, "models latents of one shape"),
    ({"decoder": {"name": "superres/regression", "factor": 2, "fit": {"steps": 1}}}, "decodes to images of one size"),
    ({"decoder": {**CODEC, "network": {"patch": 8}}}, "factor 16 needs a height and a width divisible by it"),
    ({"evaluate": {"metrics": ["metrics/frechet"]}}, "'frechet' compares images of one shape"),
    ({"evaluate": {"likelihood": {"images": 4}}}, "evaluate.likelihood measures images of one shape"),
    ({"generator": {"name": "diffusion/diffusion", "network": {**DIT, "patch": 8}}}, "divisible by 8"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_parts_that_need_one_shape_are_refused(
    config: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        check(read({**config, **change}, tmp_path))
    assert "bucket" in str(found.value) and "several shapes" in str(found.value)


def test_tfds_refuses_buckets_with_advice() -> None:
    with pytest.raises(kgen.DataError, match="resize: bucket needs the shape of every image at the start"):
        kgen.make_dataset({"name": "tfds", "dataset": "mnist", "resize": "bucket"})
