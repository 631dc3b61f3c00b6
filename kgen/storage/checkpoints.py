"""The file names of checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINT = re.compile(r"step-(\d{8,})\.safetensors")
"""The form of a checkpoint's file name."""

FROZEN = "frozen.safetensors"
"""The name of the file, beside the checkpoints of a training with LoRA, of the weights that never change."""


def checkpoint_file(folder: Path, step: int) -> Path:
    """The file of the checkpoint of a step."""
    return folder / f"step-{step:08d}.safetensors"


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order. Files with other names are ignored."""
    names = (CHECKPOINT.fullmatch(path.name) for path in folder.glob("step-*.safetensors"))
    return sorted(int(name[1]) for name in names if name)


def kept_steps(steps: int, every: int, keep: int) -> list[int]:
    """The steps of the checkpoints that an uninterrupted training leaves, in ascending order.

    Args:
        steps: Number of training steps. The last one always has a checkpoint.
        every: Steps between two checkpoints.
        keep: Number of checkpoints to keep.
    """
    return [*range(every, steps, every)[-keep:], steps][-keep:]
