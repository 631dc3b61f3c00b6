"""Weights that several processes write together, because each of them holds a part (a shard) of some arrays.

The first process writes the file itself, with its shards and all arrays that are not divided. Each of the others writes
a file beside it: see `shard_file`. `read_arrays` joins them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kgen.errors import RunError
from kgen.storage.weights import AXES, SHARDS, Arrays, Variables, read_metadata, save_variables, shard_file


@dataclass(frozen=True)
class Shards:
    """Copies of what one process writes.

    Args:
        arrays: Its shards of the divided variables, and, in the first process, all others.
        axes: The axes along which the shards are joined.
        index, count: Index of the process, and number of the processes that write.
    """

    arrays: Arrays
    axes: dict[str, int] = field(default_factory=dict)
    index: int = 0
    count: int = 1

    @classmethod
    def copy(cls, variables: Variables, index: int, count: int, memory: Arrays | None = None) -> Shards:
        """Copies what a process writes of some variables. If none is divided, the first process writes all of them.

        Args:
            variables: The variables by name.
            index, count: Index of the process, and number of the processes that write.
            memory: The arrays of an earlier copy, which are no longer needed: their memory is used again.
        """
        memory = memory or {}
        from kgen.backend.variables import copied, is_divided, own_shard  # imports Keras

        own = {name: own_shard(variable) for name, variable in variables.items() if is_divided(variable)}
        others = {name: variable for name, variable in variables.items() if name not in own and index == 0}
        whole = {name: copied(variable, memory.get(name)) for name, variable in others.items()}
        shards = {name: shard for name, (shard, _) in own.items()}
        axes = {name: axis for name, (_, axis) in own.items()}
        return cls({**whole, **shards}, axes, index, count if own else 1)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the file of this process atomically."""
        if self.count > 1:
            metadata = {**metadata, SHARDS: str(self.count), AXES: json.dumps(self.axes)}
        save_variables(shard_file(path, self.index, self.count), self.arrays, metadata)


def is_whole(path: Path) -> bool:
    """Whether the files of all processes are there. A file that cannot be read counts as that of a single process."""
    if not path.is_file():
        return False
    count = _count(path)
    return all(shard_file(path, index, count).is_file() for index in range(1, count))


def is_sharded(path: Path) -> bool:
    """Whether several processes have written some of their files."""
    return bool(_shards(path)) or (path.is_file() and _count(path) > 1)


def delete_shards(path: Path) -> None:
    """Deletes a file, and those of other processes beside it."""
    path.unlink(missing_ok=True)  # first, because the others are nothing without it
    for file in _shards(path):
        file.unlink(missing_ok=True)


def _shards(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.stem}-?????-of-?????{path.suffix}"))


def _count(path: Path) -> int:
    try:
        return int(read_metadata(path).get(SHARDS, "1"))
    except RunError:
        return 1
