"""Keeps what an evaluation has measured, so that it can continue, and so that several processes can share it."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kgen.contracts.dataset import SPLITS
from kgen.contracts.metric import State
from kgen.data.cache import hash_of
from kgen.errors import ConfigError
from kgen.storage.files import atomic_file, files_in, remove_abandoned, write_text

KEY = "evaluation.json"
SUFFIX = ".npz"

UNIT = re.compile(rf"({'|'.join(SPLITS)})-\d+(-\d+-of-\d+)?\{SUFFIX}")
"""The names of files with states: see `unit_name`."""

UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)
"""What numpy raises for a damaged file."""


class States:
    """A folder with the states of metrics. It exists only until the evaluation is complete.

    Args:
        folder: The folder, which need not exist.
        described: Everything that determines the states, as plain data. If it differs from that of the states in the
            folder, these are deleted.

    Attributes:
        continues: Whether the folder held states of this evaluation.
        replaces: Whether the folder held states of another evaluation, which were deleted.

    Raises:
        ConfigError: the folder holds other files.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        self.folder = folder
        self.described = dict(described)
        self._key = hash_of(described)
        self.continues = self.exist
        self.replaces = not self.continues and (folder / KEY).is_file()
        if not self.continues:
            self.clear()

    @property
    def exist(self) -> bool:
        """Whether the folder holds states of this evaluation."""
        try:
            return bool(json.loads((self.folder / KEY).read_text(encoding="utf-8"))["key"] == self._key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def load(self, unit: str) -> tuple[int, dict[str, State]] | None:
        """The number of completed portions of a unit, and the state of each metric; None if there are no states."""
        try:
            with np.load(self.folder / f"{unit}{SUFFIX}", allow_pickle=False) as file:
                states: dict[str, dict[str, np.ndarray]] = {name: {} for name in json.loads(str(file["metrics"]))}
                for key in file.files:
                    metric, _, name = key.rpartition("|")
                    if metric:
                        states[metric][name] = file[key]
                return int(file["portions"]), dict(states)
        except UNREADABLE:
            return None

    def claim(self) -> None:
        """Creates the folder for this evaluation."""
        if not self.exist:
            write_text(self.folder / KEY, json.dumps({"key": self._key}) + "\n")

    def save(self, unit: str, portions: int, states: Mapping[str, State]) -> None:
        """Replaces the states of a unit.

        Args:
            unit: A split and a seed, or a worker's share of them: see `unit_name`.
            portions: The number of completed portions.
            states: The state of each metric, by name.
        """
        self.claim()
        arrays = {f"{metric}|{name}": array for metric, state in states.items() for name, array in state.items()}
        arrays |= {"portions": np.array(portions), "metrics": np.array(json.dumps(list(states)))}
        size = sum(array.nbytes for array in arrays.values())
        with atomic_file(self.folder / f"{unit}{SUFFIX}", size) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def clear(self) -> None:
        """Deletes the folder. Raises ConfigError if it holds files that are not states."""
        if not self.folder.is_dir():
            return
        remove_abandoned(self.folder)
        files = sorted(files_in(self.folder), key=lambda name: name == KEY)  # the key shows that the others are kgen's
        if foreign := [name for name in files if KEY not in files or (name != KEY and not UNIT.fullmatch(name))]:
            raise ConfigError(f"{self.folder} holds {foreign[0]}, which kgen did not make: move the folder away")
        for name in files:
            (self.folder / name).unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
