"""Keeps variables in safetensors files, by name, with a checksum that reveals damage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgen.errors import RunError
from kgen.storage.files import atomic_file

Variables = Mapping[str, Any]
"""Keras variables by name, such as their paths: see `kgen.storage.paths`."""

Arrays = dict[str, np.ndarray]

CHECKSUM = "checksum"
"""Key of the metadata: of all arrays, with their names, types and shapes."""

MAX_NAMED = 3
"""Names in a message about a file that holds others."""


def save_variables(path: Path, variables: Variables, metadata: Mapping[str, str]) -> None:
    """Writes variables atomically, with metadata as text."""
    arrays = {name: np.array(variable.numpy(), order="C") for name, variable in variables.items()}
    with atomic_file(path, sum(array.nbytes for array in arrays.values())) as temporary:
        save_file(arrays, temporary, metadata={**metadata, CHECKSUM: _checksum(arrays)})


def load_variables(
    path: Path, variables: Variables, migrated: Callable[[Arrays], Arrays] = lambda arrays: arrays
) -> dict[str, str]:
    """Assigns what `save_variables` wrote; returns the metadata.

    Args:
        migrated: Gives what lies in the file the names of today.

    Raises:
        RunError: the file is damaged, or was written for other variables; no variable has changed then.
    """
    arrays, metadata = read_arrays(path)
    arrays = migrated(arrays)
    if odd := sorted(set(arrays) ^ set(variables))[:MAX_NAMED]:
        raise RunError(f"{path} was written for another model: it differs in {', '.join(odd)}")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise RunError(f"{path}: {name} has shape {arrays[name].shape}, the model wants {tuple(variable.shape)}")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return metadata


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a file and its metadata. Raises RunError where it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # the last two: a type that numpy lacks
        raise RunError(f"{path} cannot be read: {error}") from error
    if metadata.pop(CHECKSUM, found := _checksum(arrays)) != found:
        raise RunError(f"{path} is damaged: its numbers do not match their checksum")
    return arrays, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_variables` kept beside the variables. Raises RunError where the file cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
