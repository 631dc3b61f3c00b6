"""Weights that several processes write together, each its own parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kgen
from kgen.storage.checkpoints import FROZEN, checkpoint_file, checkpoint_steps, delete_checkpoint, delete_unfinished
from kgen.storage.shards import Shards, is_whole
from kgen.storage.weights import read_arrays, read_metadata, save_variables, shard_file

pytestmark = pytest.mark.portable

WHOLE = {
    "table": np.arange(12.0).reshape(6, 2),
    "kernel": np.arange(12.0).reshape(2, 6) * 3,
    "bias": np.arange(3.0),
}
AXES = {"table": 0, "kernel": 1}


def write(path: Path, index: int, step: int = 5) -> Path:
    """Writes the part of one of three processes."""
    arrays = {name: np.split(WHOLE[name], 3, axis)[index] for name, axis in AXES.items()}
    if index == 0:
        arrays["bias"] = WHOLE["bias"]
    Shards(arrays, AXES, index, 3).save(path, {"step": str(step)})
    return shard_file(path, index, 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = checkpoint_file(tmp_path, 5)
    for index in range(3):
        write(path, index)
    return path


def test_the_parts_of_all_processes_are_joined(file: Path) -> None:
    arrays, metadata = read_arrays(file)
    assert metadata == {"step": "5"} and arrays.keys() == WHOLE.keys()
    for name, array in WHOLE.items():
        np.testing.assert_array_equal(arrays[name], array)
    names = ["step-00000005-00002-of-00003.safetensors", "step-00000005-00003-of-00003.safetensors", file.name]
    assert sorted(path.name for path in file.parent.iterdir()) == names


def test_one_process_writes_one_file(tmp_path: Path) -> None:
    Shards(WHOLE).save(tmp_path / "a.safetensors", {"step": "5"})
    save_variables(tmp_path / "b.safetensors", WHOLE, {"step": "5"})
    assert read_metadata(tmp_path / "a.safetensors") == read_metadata(tmp_path / "b.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("index", [1, 2])
def test_a_missing_or_damaged_part_is_found(index: int, file: Path) -> None:
    part = shard_file(file, index, 3)
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(kgen.RunError, match=f"{part.name} is damaged"):
        read_arrays(file)
    write(file, index, step=4)
    with pytest.raises(kgen.RunError, match=f"{part.name} was not written together with .*{file.name}"):
        read_arrays(file)
    assert checkpoint_steps(file.parent) == [5]
    part.unlink()
    assert not is_whole(file) and checkpoint_steps(file.parent) == []
    with pytest.raises(kgen.RunError, match=part.name):
        read_arrays(file)


def test_a_checkpoint_counts_only_with_all_files(tmp_path: Path) -> None:
    path = checkpoint_file(tmp_path, 5)
    for index, steps in ((2, []), (0, []), (1, [5])):
        write(path, index)
        assert checkpoint_steps(tmp_path) == steps
    write(tmp_path / FROZEN, 0)  # which all checkpoints need
    assert checkpoint_steps(tmp_path) == []
    write(tmp_path / FROZEN, 1)
    write(tmp_path / FROZEN, 2)
    assert checkpoint_steps(tmp_path) == [5]
    delete_checkpoint(tmp_path, 5)
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {FROZEN, "frozen"}


def test_parts_of_other_trainings_are_deleted(file: Path) -> None:
    folder = file.parent
    for step, indices in ((7, (0, 1, 2)), (9, (1, 2))):
        for index in indices:
            write(checkpoint_file(folder, step), index)
    delete_unfinished(folder, 7)
    assert checkpoint_steps(folder) == [5, 7] and not list(folder.glob("step-00000009*"))
    delete_unfinished(folder, 5)
    assert checkpoint_steps(folder) == [5]
    assert len(list(folder.iterdir())) == 3
    write(folder / FROZEN, 0)  # the other processes were killed before they wrote it
    delete_unfinished(folder, 5)
    assert not list(folder.iterdir())
