"""A published pipeline in runs: trained further, in part, and without its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from keras import ops
from kgen_plugin_diffusers.exchange.run_file import run_file
from safetensors.numpy import load_file

import kgen
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = pytest.mark.portable

KEYS = "down_blocks/0/attentions/0/transformer_blocks/0/attn2"
"""An attention to the text."""


def config(text: str, steps: int) -> RunConfig:
    given = yaml.safe_load(text)
    given["data"] = {"name": "shapes", "size": 16, "count": 24, "objects": 1}
    fit = {"steps": steps, "batch_size": 8, "warmup_steps": 0, "ema": None}
    return RunConfig.from_dict(
        {**given, "fit": {**given["fit"], **fit}, "sample": {"every": 0, "options": {"steps": 2}}}
    )


def test_training_continues_without_the_folder(published: ModuleType, tmp_path: Path) -> None:
    """The weights that are not trained stay those of the folder, and those that are stay near them."""
    folder = tmp_path / "pipeline"
    published.random_pipeline().save_pretrained(folder)
    text = run_file(folder)
    run(config(text, 2), tmp_path / "run", log=lambda line: None)
    first = load_file(tmp_path / "run" / "model" / "weights.safetensors")
    arrays = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(folder)
    run(config(text, 3), tmp_path / "run", log=lambda line: None)
    pipeline = kgen.load(tmp_path / "run")
    assert pipeline.generate(["a red circle"], steps=2, size=(24, 32)).shape == (1, 24, 32, 3)
    paths = kgen.weight_paths(pipeline.generator.model.network)
    now = {path: ops.convert_to_numpy(weight) for path, weight in paths.items()}
    moved = {path for path in now if not np.array_equal(now[path], first[f"generator/model/network/{path}"])}
    assert f"{KEYS}/kv/kernel" in moved and all(path.endswith("attn2/kv/kernel") for path in moved)
    there = KEYS.replace("/", ".")
    both = np.concatenate([arrays[f"{there}.to_{kind}.weight"] for kind in "kv"]).T
    assert 0 < np.abs(now[f"{KEYS}/kv/kernel"] - both).max() < 0.001
    np.testing.assert_array_equal(now[f"{KEYS}/q/kernel"], arrays[f"{there}.to_q.weight"].T)
    np.testing.assert_array_equal(now["conv_norm_out/gain"], arrays["conv_norm_out.weight"])
