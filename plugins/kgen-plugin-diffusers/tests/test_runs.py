"""Published autoencoders in runs: frozen, trained further, taken from another run, and without their folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.kl import AutoencoderKL
from safetensors.numpy import load_file

import kgen
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = pytest.mark.portable


def config(decoder: dict[str, Any]) -> RunConfig:
    return RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 24, "objects": 1},
            "encoder": {"name": "text/bag", "dim": 8},
            "generator": {
                "name": "diffusion/diffusion",
                "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1},
            },
            "decoder": decoder,
            "fit": {"steps": 2, "batch_size": 8},
            "sample": {"every": 0, "options": {"steps": 2}},
        }
    )


def named(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"name": "diffusers/autoencoder-kl", "pretrained": str(folder), **keys}


@pytest.fixture
def copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which a test may delete."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def encoded(decoder: kgen.Decoder, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor(images)))


def test_a_run_holds_the_model(published: ModuleType, copied: Path, tmp_path: Path) -> None:
    """Without the folder, its training continues, it generates, and another run takes its decoder."""
    images, lines = published.images(height=16, width=16), []
    theirs = published.random_model("AutoencoderKL").encode(published.as_theirs(images)).latent_dist.mode()
    given = config(named(copied))
    run(given, tmp_path / "run", stage="decoder", log=lines.append)
    assert any("copied into the run" in line for line in lines)
    shutil.rmtree(copied)
    run(given, tmp_path / "run", log=lines.append)
    assert any("latents of the split 'train' are cached" in line for line in lines)
    pipeline = kgen.load(tmp_path / "run")
    assert pipeline.generate(["a red circle"], steps=2).shape == (1, 16, 16, 3)
    np.testing.assert_allclose(encoded(pipeline.decoder, images), published.as_ours(theirs) * 0.18215, atol=1e-5)
    run(config({"from": str(tmp_path / "run")}), tmp_path / "other", log=lines.append)
    np.testing.assert_array_equal(
        encoded(kgen.load(tmp_path / "other").decoder, images), encoded(pipeline.decoder, images)
    )


def test_training_continues_from_the_published_weights(copied: Path, tmp_path: Path) -> None:
    """The frozen encoder network keeps its weights, so that the latents stay; those of the decoder network change."""
    decoder = AutoencoderKL(kgen.Space("continuous", (16, 16, 3)), pretrained=str(copied))
    decoder.build(None)
    paths = kgen.weight_paths(decoder, decoder.inference_weights)
    before = {f"decoder/{path}": ops.convert_to_numpy(weight) for path, weight in paths.items()}
    frozen = ["decoder/network/encoder/*", "decoder/network/quant_conv/*"]
    fit = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0, "ema": None, "frozen": frozen}
    given = config(named(copied, fit=fit))
    run(given, tmp_path / "run", stage="decoder", log=lambda line: None)
    after = load_file(tmp_path / "run" / "decoder" / "model" / "weights.safetensors")
    assert before.keys() == after.keys()
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed and all(path.startswith(("decoder/network/decoder", "decoder/network/post")) for path in changed)
    assert max(np.abs(before[path] - after[path]).max() for path in changed) < 1e-2


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"pretrained": "no/such/folder"}, r"no/such/folder: there is no such folder in /.*; download the model first"),
        ({"pretrained": "hf://a/b"}, r"hf://a/b: this option takes a folder; download the model to one first"),
        ({"pretrained": "vae", "data": "shapes"}, r"decoder\.data.*has the weights of the files that it names: leave"),
        ({"pretrained": "vae", "init": "runs/other"}, r"decoder\.init.*has the weights of the files that it names"),
        ({}, r"decoder.*pretrained.*required|decoder.*needs.*pretrained"),
    ],
)
def test_settings_that_are_wrong(decoder: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(kgen.ConfigError, match=message):
        run(config({"name": "diffusers/autoencoder-kl", **decoder}), tmp_path / "run", log=lambda line: None)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_saved_pipeline_holds_the_model(published: ModuleType, copied: Path, tmp_path: Path) -> None:
    pipeline = kgen.assemble(
        encoder="none",
        generator={"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
        decoder=named(copied),
        image_space=(16, 16, 3),
    )
    frozen = {id(weight) for weight in pipeline.decoder.weights}
    assert pipeline.trainable_weights and not any(id(weight) in frozen for weight in pipeline.trainable_weights)
    images = published.images(height=16, width=16)
    expected = encoded(pipeline.decoder, images)
    kgen.save(pipeline, tmp_path / "saved")
    shutil.rmtree(copied)
    np.testing.assert_array_equal(encoded(kgen.load(tmp_path / "saved").decoder, images), expected)
