"""Export to folders that diffusers opens, and run files for such folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from kgen_plugin_diffusers.exchange import commands
from kgen_plugin_diffusers.exchange.export import export
from kgen_plugin_diffusers.exchange.run_file import run_file
from safetensors import safe_open
from safetensors.numpy import load_file

import kgen
from kgen import ConfigError
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = pytest.mark.portable

WEIGHTS = "diffusion_pytorch_model.safetensors"
GENERATORS: dict[str, Any] = {
    "autoencoder-kl": {
        "name": "diffusion/diffusion",
        "network": {"kind": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 1},
    },
    "vq-model": {"name": "tokens/nar", "network": {"width": 8, "depth": 1, "heads": 2}},
}


def saved(folder: Path, decoder: str, path: Path) -> kgen.Pipeline:
    """A saved pipeline with the decoder of a folder."""
    pipeline = kgen.assemble(
        encoder="none",
        generator=GENERATORS[decoder],
        decoder={"name": f"diffusers/{decoder}", "pretrained": str(folder)},
        image_space=(8, 12, 3),
    )
    kgen.save(pipeline, path)
    return pipeline


OPTIONS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "like SD1": ("AutoencoderKL", "autoencoder-kl", "vae", {}),
    "like SD3": (
        "AutoencoderKL",
        "autoencoder-kl",
        "vae",
        {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16, "shift_factor": 0.1},
    ),
    "tokens": ("VQModel", "vq-model", "vqvae", {"vq_embed_dim": 5, "num_vq_embeddings": 24}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_import_and_export_keep_every_bit(name: str, published: ModuleType, tmp_path: Path) -> None:
    import diffusers
    import torch

    cls, decoder, part, options = OPTIONS[name]
    model = published.random_model(cls, **options)
    folder = published.save(model, tmp_path / "model")
    saved(folder, decoder, tmp_path / "saved")
    models, reasons = export(tmp_path / "saved", tmp_path / "exported")
    assert list(models) == ["decoder"] and set(reasons) == {"encoder", "generator"}
    mine, its = load_file(tmp_path / "exported" / part / WEIGHTS), load_file(folder / WEIGHTS)
    assert mine.keys() == its.keys()
    with safe_open(tmp_path / "exported" / part / WEIGHTS, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}  # as diffusers writes it
    for tensor in its:
        np.testing.assert_array_equal(mine[tensor], its[tensor])
    config, theirs = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "exported" / part, folder))
    assert config == {key: value for key, value in theirs.items() if key != "_diffusers_version"}
    opened = getattr(diffusers, cls).from_pretrained(tmp_path / "exported", subfolder=part)
    with torch.no_grad():
        images = [each(published.as_theirs(published.images())).sample for each in (model, opened)]
    torch.testing.assert_close(*images, rtol=0, atol=0)
    again = saved(tmp_path / "exported", decoder, tmp_path / "again")  # kgen finds the folder of the part
    assert again.decoder.latent_space == kgen.load(tmp_path / "saved").decoder.latent_space


def test_a_run_whose_decoder_alone_is_trained(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command. The model card has the configuration, and no license."""
    text = run_file(folder).replace("openmoji, size: 64", "shapes, size: 16, count: 24")
    given = RunConfig.from_dict({**yaml.safe_load(text), "encoder": "none"})
    run(given, tmp_path / "trained", stage="decoder", log=lambda line: None)
    commands.export(tmp_path / "trained", tmp_path / "out" / "exported")
    assert load_file(tmp_path / "out/exported/vae" / WEIGHTS).keys() == load_file(folder / WEIGHTS).keys()
    out = capsys.readouterr().out
    assert "exported/vae: the decoder, as AutoencoderKL" in out
    assert "not exported: the generator: " in out and "finish its training first" in out
    card = (tmp_path / "out" / "exported" / "README.md").read_text()
    assert "State the license of the weights" in card and "name: diffusers/autoencoder-kl" in card
    assert 'diffusers.AutoencoderKL.from_pretrained("FOLDER", subfolder="vae")' in card
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["exported"]


def test_what_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    kgen.save(
        kgen.assemble(encoder="none", generator=GENERATORS["autoencoder-kl"], image_space=(8, 12, 3)), tmp_path / "run"
    )
    with pytest.raises(ConfigError, match=r"no part that diffusers can hold:\n(.*\n)+  decoder: no plugin converts"):
        export(tmp_path / "run", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    with pytest.raises(ConfigError, match="exists, and is not an empty folder: choose another name"):
        export(tmp_path / "run", tmp_path / "run")
    with pytest.raises(kgen.RunError):
        export(tmp_path / "nowhere", tmp_path / "exported")


def test_a_run_file_for_a_pipeline(published: ModuleType, folder: Path, tmp_path: Path) -> None:
    published.save(published.random_model("VQModel"), tmp_path / "vqvae")
    index = {"_class_name": "AmusedPipeline", "vqvae": ["diffusers", "VQModel"], "scheduler": ["diffusers", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    text = run_file(tmp_path)
    assert "# kgen does not use scheduler: X" in text
    config = yaml.safe_load(text)
    assert config["decoder"] == {"name": "diffusers/vq-model", "pretrained": str(tmp_path)}
    assert config["generator"] == "tokens/nar" and config["data"]["size"] == 64
    RunConfig.from_dict(config)
    (tmp_path / "model_index.json").write_text(json.dumps({"scheduler": ["diffusers", "X"]}))
    with pytest.raises(ConfigError, match=r"holds no autoencoder, .* \(X\): give the folder of a whole pipeline"):
        run_file(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        run_file(tmp_path / "nowhere")


def test_tensors_of_equal_shape_are_split_again() -> None:
    from kgen.pretrained import Source

    rng = np.random.default_rng(0)
    for form, shape in (("plain", (4,)), ("transposed", (4, 3)), ("convolution", (4, 3, 2, 5))):
        tensors = {name: rng.normal(size=shape) for name in ("a", "b")}
        whole = Source(("a", "b"), form)
        restored = whole.restore(whole.convert(np.concatenate(list(tensors.values()))))
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(restored[name], tensor)
    with pytest.raises(ValueError, match="size of the patches"):
        Source(("a",), "patches").restore(np.zeros((4, 3)))
