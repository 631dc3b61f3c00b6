"""Folders of models: variants, several files, names of earlier versions, and what cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.kl import AutoencoderKL
from safetensors.numpy import load_file, save_file

from kgen import ConfigError, Space

pytestmark = pytest.mark.portable

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, which a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def opened(folder: Path, **options: Any) -> AutoencoderKL:
    decoder = AutoencoderKL(Space("continuous", (8, 8, 3)), pretrained=str(folder), **options)
    decoder.build(None)
    return decoder


def weights_of(decoder: AutoencoderKL) -> list[np.ndarray]:
    return [ops.convert_to_numpy(weight) for weight in decoder.network.weights]


def assert_same(decoder: AutoencoderKL, other: AutoencoderKL) -> None:
    for mine, its in zip(weights_of(decoder), weights_of(other), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_a_pipeline_with_variants_in_several_files(published: ModuleType, folder: Path, tmp_path: Path) -> None:
    """The weights without a variant are in float32, those of the variant in float16; both are in several files."""
    model = published.random_model("AutoencoderKL")
    published.save(model, tmp_path / "vae", max_shard_size="20KB")
    published.save(model.half(), tmp_path / "vae", max_shard_size="10KB", variant="fp16")
    (tmp_path / "model_index.json").write_text("{}")
    parts = [sorted((tmp_path / "vae").glob(f"*model{variant}-*-of-*.safetensors")) for variant in ("", ".fp16")]
    assert all(len(files) > 1 for files in parts)
    expected = opened(folder)
    assert_same(opened(tmp_path), expected)
    for mine, its in zip(weights_of(opened(tmp_path, variant="fp16")), weights_of(expected), strict=True):
        np.testing.assert_array_equal(mine, its.astype("float16"))
    parts[1][1].unlink()
    with pytest.raises(ConfigError, match=r"model\.fp16-00002-of-.*\.safetensors is missing: download the weights"):
        opened(tmp_path, variant="fp16")


def test_a_variant_must_be_chosen(published: ModuleType, tmp_path: Path) -> None:
    published.save(published.random_model("AutoencoderKL"), tmp_path, variant="fp16")
    with pytest.raises(ConfigError, match=r"has no weights without a variant: set the option 'variant' to 'fp16'"):
        opened(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").rename(tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match=r"has no weights of the variant 'ema': set the option 'variant' to null"):
        opened(tmp_path, variant="ema")


def test_attention_of_the_first_versions(folder: Path, copied: Path) -> None:
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = load_file(copied / WEIGHTS)
    for new, old in earlier.items():
        arrays = {name.replace(f".{new}.", f".{old}."): array for name, array in arrays.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in arrays
    save_file(arrays, copied / WEIGHTS)
    config = json.loads((copied / "config.json").read_text())
    for key in ("scaling_factor", "shift_factor", "latents_mean", "force_upcast", "use_quant_conv"):
        del config[key]
    (copied / "config.json").write_text(json.dumps(config))
    assert_same(opened(copied), opened(folder))
    assert opened(copied).architecture == opened(folder).architecture


def test_weights_in_bfloat16(published: ModuleType, tmp_path: Path) -> None:
    import torch

    model = published.random_model("AutoencoderKL").to(torch.bfloat16)
    published.save(model, tmp_path / "rounded")
    published.save(model.float(), tmp_path / "float32")
    assert_same(opened(tmp_path / "rounded"), opened(tmp_path / "float32"))


# ---- what cannot be read ------------------------------------------------------------------------------------------


def changed_config(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **changes}))

    return apply


def changed_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        arrays = load_file(folder / WEIGHTS)
        change(arrays)
        save_file(arrays, folder / WEIGHTS)

    return apply


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


TENSOR = "decoder.up_blocks.0.upsamplers.0.conv.bias"

PROBLEMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another model": (
        changed_config(_class_name="UNet2DConditionModel"),
        r"config\.json: '_class_name' must be 'AutoencoderKL', not 'UNet2DConditionModel'",
    ),
    "unknown key": (changed_config(use_tiles=True), r"config\.json: 'use_tiles': unknown"),
    "activation": (changed_config(act_fn="gelu"), r"'act_fn' must be 'silu' or 'swish', not 'gelu'"),
    "blocks": (
        changed_config(down_block_types=["DownEncoderBlock2D", "CrossAttnDownBlock2D"]),
        r"'down_block_types' must be 'DownEncoderBlock2D' or .* in each stage, not 'CrossAttnDownBlock2D'",
    ),
    "stages": (changed_config(up_block_types=["UpDecoderBlock2D"]), r"'up_block_types' must be a list of 2 types"),
    "groups": (changed_config(norm_num_groups=6), r"'block_out_channels' must be multiples of norm_num_groups, 6, but"),
    "other output": (changed_config(out_channels=4), r"'out_channels' must be 3, not 4"),
    "scale": (changed_config(scaling_factor=0), r"'scaling_factor' must be a positive number, not 0"),
    "shift": (changed_config(shift_factor="0.1"), r"'shift_factor' must be a number, not '0\.1'"),
    "only means": (changed_config(latents_mean=[0, 0, 0, 0]), r"'latents_std' must be 4 numbers, not None"),
    "deviations": (
        changed_config(latents_mean=[0, 0, 0, 0], latents_std=[1, 1, 1, 0]),
        r"'latents_std' must be positive numbers",
    ),
    "two shifts": (
        changed_config(shift_factor=1, latents_mean=[0, 0, 0, 0], latents_std=[1, 1, 1, 1]),
        r"'shift_factor' cannot be given together with latents_mean",
    ),
    "lacking tensor": (changed_weights(lambda d: d.pop(TENSOR)), rf"{WEIGHTS} lacks '{TENSOR}'"),
    "unknown tensor": (
        changed_weights(lambda d: d.update({"decoder.adapter": d[TENSOR].copy()})),
        rf"{WEIGHTS}: 'decoder\.adapter': unknown",
    ),
    "shape": (
        changed_weights(lambda d: d.update({TENSOR: d[TENSOR][:3].copy()})),
        rf"{WEIGHTS}: '{TENSOR}' has the shape \(3,\), which does not fit the configuration",
    ),
    "damage": (lambda folder: (folder / WEIGHTS).write_bytes(b"half"), rf"{WEIGHTS} cannot be read"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), rf"{WEIGHTS} is missing: download the weights as safe"),
    "pickle": (
        only_a_pickle,
        rf"{WEIGHTS} is missing: diffusion_pytorch_model\.bin is a format that kgen does not read, because a pickle "
        r"can run any code\. Convert it where you trust it: diffusers\.AutoencoderKL\.from_pretrained\(FOLDER, use_",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
    "no folder": (lambda folder: shutil.rmtree(folder), r"copied: there is no such folder; download the model first"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_are_named(problem: str, copied: Path) -> None:
    change, message = PROBLEMS[problem]
    change(copied)
    with pytest.raises(ConfigError, match=message):
        opened(copied)


def test_a_pipeline_without_an_autoencoder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a pipeline without such a model: it has no folder 'vae'"):
        opened(tmp_path)
