"""A published U-Net in runs: trained further, in part, and without its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

import kgen
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = pytest.mark.portable

TRAINED = "generator/model/network/down_blocks/*/attn2/kv"


def config(folder: Path, steps: int) -> RunConfig:
    return RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 24, "objects": 1},
            "encoder": {"name": "text/bag", "dim": 6},
            "generator": {
                "name": "diffusion/diffusion",
                "network": {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)},
                "schedule": "discrete",
                "prediction": "eps",
            },
            "fit": {"steps": steps, "batch_size": 8, "warmup_steps": 0, "ema": None, "trainable": [TRAINED]},
            "sample": {"every": 0, "options": {"steps": 2}},
        }
    )


def test_training_continues_without_the_folder(published: ModuleType, tmp_path: Path) -> None:
    """The weights that are not trained stay those of the folder, and those that are stay near them."""
    model = published.random_model("UNet2DConditionModel", in_channels=3, out_channels=3)
    folder = Path(published.save(model, tmp_path / "unet"))
    run(config(folder, 2), tmp_path / "run", log=lambda line: None)
    first = load_file(tmp_path / "run" / "model" / "weights.safetensors")
    arrays = load_file(folder / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(folder)
    run(config(folder, 3), tmp_path / "run", log=lambda line: None)
    pipeline = kgen.load(tmp_path / "run")
    assert pipeline.generate(["a red circle"], steps=2, size=(12, 16)).shape == (1, 12, 16, 3)
    paths = kgen.weight_paths(pipeline.generator.model.network)
    now = {path: ops.convert_to_numpy(weight) for path, weight in paths.items()}
    moved = {path for path in now if not np.array_equal(now[path], first[f"generator/model/network/{path}"])}
    name = "down_blocks/0/attentions/0/transformer_blocks/0/attn2"
    assert moved == {f"{name}/kv/kernel"}
    there = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    both = np.concatenate([arrays[f"{there}.to_{kind}.weight"] for kind in "kv"]).T
    assert 0 < np.abs(now[f"{name}/kv/kernel"] - both).max() < 0.01
    np.testing.assert_array_equal(now[f"{name}/q/kernel"], arrays[f"{there}.to_q.weight"].T)
    np.testing.assert_array_equal(now["conv_norm_out/gain"], arrays["conv_norm_out.weight"])
