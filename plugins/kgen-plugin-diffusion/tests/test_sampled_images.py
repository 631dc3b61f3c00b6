"""An image depends on its prompt and seed alone, not on its batch or process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

JOB = Path(__file__).parent / "sampling_job.py"
PROMPTS = [f"{color} {shape}" for color in ("red", "green", "blue", "black") for shape in ("square", "circle")]


def job() -> Any:
    spec = importlib.util.spec_from_file_location("sampling_job", JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elsewhere(path: Path, prompts: list[str]) -> np.ndarray:
    subprocess.run([sys.executable, JOB, path, *prompts], check=True, capture_output=True, timeout=300)
    return np.load(path)


@pytest.mark.slow
def test_same_image_in_another_process_alone_and_in_a_batch(tmp_path: Path) -> None:
    here, alone = job().generated(PROMPTS, PROMPTS[-1:])
    assert here.std(axis=0).mean() > 1, "all prompts have the same image"
    np.testing.assert_array_equal(elsewhere(tmp_path / "together.npy", PROMPTS), here)
    # 1e-4 apart before rounding may be one level apart after it
    assert np.abs(alone[0].astype(int) - here[-1]).max() <= 1
