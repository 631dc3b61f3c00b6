"""The whole way on JAX where TensorFlow cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

NOT_INSTALLED = """\
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""

CONFIG = """\
data: {name: shapes, size: 16, count: 100}
encoder: text/bag
generator: {name: diffusion/diffusion, network: {kind: dit, width: 16, depth: 1, heads: 2}}
fit: {steps: 30, batch_size: 8, log_every: 10}
sample: {options: {steps: 2}}
evaluate: {metrics: [attributes], limit: 4}
"""


def test_run_and_generate(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "jax"}
    for command in (["run", "run.yaml"], ["generate", "runs/run", "a small red star at the top", "-o", "star.png"]):
        kgen = [sys.executable, "-m", "kgen.cli", *command]
        done = subprocess.run(kgen, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "run" / "manifest.json").read_text())
    assert manifest["software"]["backend"] == "jax"
    assert np.asarray(Image.open(tmp_path / "star.png")).shape[-1] == 3
    assert (tmp_path / "runs" / "run" / "report.html").stat().st_size > 10_000
