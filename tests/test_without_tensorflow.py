"""The whole way on JAX, and all parts, where TensorFlow cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from command_line import TOY, environment
from PIL import Image

NOT_INSTALLED = """\
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""

COMMANDS = """\
import sys

from kgen.cli import main
from kgen.plugins.discovery import registry

for command in ("run run.yaml", "generate runs/run star -o star.png"):
    sys.argv = ["kgen", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command

for kind in ("encoder", "generator", "decoder"):
    for component in registry().of_kind(kind):
        if not component.id.startswith("keras-hub/"):  # which needs TensorFlow
            component.load()
"""

CONFIG = """\
data: {name: shapes, size: 16, count: 8}
encoder: {name: text/bag, dim: 8}
generator: toy/means
fit: {steps: 3, batch_size: 4, log_every: 1}
sample: {every: 0, prompts: [a large red circle in the middle]}
evaluate: {metrics: [attributes], max_prompts: 1}
"""


def test_run_and_generate(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    env = environment(KERAS_BACKEND="jax", PYTHONPATH=os.pathsep.join([str(tmp_path), str(TOY)]))
    command = [sys.executable, "-c", COMMANDS]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "run" / "manifest.json").read_text())
    assert manifest["software"]["backend"] == "jax"
    assert np.asarray(Image.open(tmp_path / "star.png")).shape[-1] == 3
    report = (tmp_path / "runs" / "run" / "report.html").read_text()
    assert "data:image/png;base64," in report and "accuracy" in report
