"""The files of checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from kgen.storage.shards import delete_shards, is_sharded, is_whole

CHECKPOINT = re.compile(r"step-(\d{8,})(-\d{5}-of-\d{5})?\.safetensors")
"""The form of a checkpoint's file name. What several processes have written has a second part."""

FROZEN = "frozen.safetensors"
"""The name of the file, beside the checkpoints of a training with LoRA, of the weights that never change."""


def checkpoint_file(folder: Path, step: int) -> Path:
    """The file of the checkpoint of a step."""
    return folder / f"step-{step:08d}.safetensors"


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order. Files with other names are ignored.

    A checkpoint that several processes write counts when all of its files are there.
    """
    frozen = folder / FROZEN
    if frozen.is_file() and not is_whole(frozen):
        return []
    names = (CHECKPOINT.fullmatch(path.name) for path in folder.glob("step-*.safetensors") if is_whole(path))
    return sorted(int(name[1]) for name in names if name and not name[2])


def delete_checkpoint(folder: Path, step: int) -> None:
    """Deletes the files of the checkpoint of a step."""
    delete_shards(checkpoint_file(folder, step))


def delete_unfinished(folder: Path, last: int) -> None:
    """Deletes what several processes have written, except the checkpoints up to step `last` that have all files."""
    finished = [step for step in checkpoint_steps(folder) if step <= last]
    names = (CHECKPOINT.fullmatch(path.name) for path in folder.glob("step-*.safetensors"))
    files = {checkpoint_file(folder, int(name[1])) for name in names if name and int(name[1]) not in finished}
    frozen = folder / FROZEN
    needed = is_whole(frozen) or not frozen.is_file()
    for file in files:
        if not needed or is_sharded(file):
            delete_shards(file)
    if not finished and is_sharded(frozen):
        delete_shards(frozen)


def kept_steps(steps: int, every: int, keep: int) -> list[int]:
    """The steps of the checkpoints that an uninterrupted training leaves, in ascending order.

    Args:
        steps: Number of training steps. The last one always has a checkpoint.
        every: Steps between two checkpoints.
        keep: Number of checkpoints to keep.
    """
    return [*range(every, steps, every)[-keep:], steps][-keep:]
