"""kgen finds no error in the example, and listing the plugin imports no framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "example.yaml"


def test_the_example_passes_the_check(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kgen.cli", "check", str(EXAMPLE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_listing_the_plugin_imports_no_framework() -> None:
    code = "import sys, kgen_plugin_yourname.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "jax", "torch"} & set(done.stdout.split())
