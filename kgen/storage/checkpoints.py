"""How the files of checkpoints are named."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINT = re.compile(r"step-(\d{8,})\.safetensors")
"""The names of checkpoints."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order; files that kgen does not name so do not count."""
    names = (CHECKPOINT.fullmatch(path.name) for path in folder.glob("step-*.safetensors"))
    return sorted(int(name[1]) for name in names if name)
