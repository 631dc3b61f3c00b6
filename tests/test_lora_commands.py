"""LoRA files at the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from kgen import add_lora, load, load_lora, save_lora
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = pytest.mark.portable

CONFIG = {
    "data": {"name": "made/patterns", "count": 9, "size": 4},
    "encoder": "made/words",
    "generator": "made/painter",
    "fit": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
    "sample": {"every": 0},
    "loggers": [],
}


@pytest.fixture(scope="module")
def base(made_plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run."""
    path = tmp_path_factory.mktemp("lora") / "base"
    run(RunConfig.from_dict(CONFIG), path, log=lambda line: None)
    return path


@pytest.fixture(scope="module")
def files(base: Path) -> list[Path]:
    """Two LoRA files for it, one of which has a colon in its name."""
    found = []
    for seed, name in enumerate(("one.safetensors", "two.safetensors" if os.name == "nt" else "two:3")):
        pipeline, rng = load(base), np.random.default_rng(seed)
        for layer in add_lora(pipeline, 2, targets=["generator/*"]).values():
            layer.lora_kernel_b.assign(10.0 * rng.normal(size=layer.lora_kernel_b.shape))
        found.append(save_lora(pipeline, base.parent / name))
    return found


def test_generate_adds_lora_files(kgen: Any, base: Path, files: list[Path], tmp_path: Path) -> None:
    given = ["--lora", f"{files[0]}:0.5", "--lora", files[1], "-n", "2"]
    outcome = kgen("generate", base, "red", *given, "-o", f"{tmp_path}/made/")
    assert outcome.status == 0, outcome
    pipeline = load(base)
    before = pipeline.generate(["red"], n=2)
    for file, scale in zip(files, (0.5, 1.0), strict=True):
        load_lora(pipeline, file, scale=scale)
    expected = pipeline.generate(["red"], n=2)
    assert np.abs(expected.astype(int) - before).max() > 20
    for path, image in zip(outcome.out.split(), expected, strict=True):
        with Image.open(path) as found:
            np.testing.assert_array_equal(np.asarray(found), image)
            assert found.text["lora"] == f"{files[0]}:0.5; {files[1]}:1" and found.text["model"] == "base"


def test_generate_refuses_lora_that_it_cannot_use(kgen: Any, base: Path, files: list[Path], tmp_path: Path) -> None:
    stray = tmp_path / "stray.safetensors"
    factors = {f"generator/other/lora_kernel_{factor}": np.zeros((2, 2), np.float32) for factor in "ab"}
    save_file(factors, stray, {"rank": "2", "alpha": "2.0"})
    for given, problem in (
        (["--lora", stray], "'generator/other/kernel': the model has no such layer"),
        (["--lora", f"{files[0]}:much"], f"--lora {files[0]}:much: there is no file {files[0]}:much; write FILE or"),
        (["--lora", "none:0.5"], "--lora none:0.5: there is no file none; write FILE or FILE:SCALE"),
        (["--lora", f"{files[0]}:nan"], "the scale of LoRA must be a finite number, not nan"),
        (["--lora", files[0], "--image", "a", "--image", "b", "--blend", "0"], "--lora has no effect with --blend"),
    ):
        kgen("generate", base, "red", *given, "-o", "red.png", cwd=tmp_path).refuses(problem)
    assert not (tmp_path / "red.png").exists()
