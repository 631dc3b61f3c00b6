"""A picture depends on its prompt and seed alone, whatever is drawn beside it and wherever."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

JOB = Path(__file__).parent / "drawing_job.py"
PROMPTS = [f"{colour} {shape}" for colour in ("red", "green", "blue", "black") for shape in ("square", "circle")]


def job() -> Any:
    spec = importlib.util.spec_from_file_location("drawing_job", JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elsewhere(path: Path, prompts: list[str]) -> dict[str, np.ndarray]:
    subprocess.run([sys.executable, JOB, path, *prompts], check=True, capture_output=True, timeout=300)
    with np.load(path) as file:
        return dict(file)


def test_same_picture_in_another_process_alone_and_in_a_batch(tmp_path: Path) -> None:
    here = job().drawings(PROMPTS)
    together = elsewhere(tmp_path / "together.npz", PROMPTS)
    alone = elsewhere(tmp_path / "alone.npz", PROMPTS[-1:])
    for sampler, pictures in here.items():
        assert pictures.std(axis=0).mean() > 1, f"{sampler} draws the same whatever the prompt"
        np.testing.assert_array_equal(together[sampler], pictures, err_msg=sampler)
        # 1e-4 apart before rounding may be one level apart after it
        assert np.abs(alone[sampler][0].astype(int) - pictures[-1]).max() <= 1, sampler
