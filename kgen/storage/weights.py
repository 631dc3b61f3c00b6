"""Keeps variables in safetensors files, by part, number and name, with a checksum that reveals damage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgen.errors import RunError
from kgen.storage.files import atomic_file

Groups = Mapping[str, Sequence[Any]]

CHECKSUM = "checksum"
"""Key of the metadata: of all arrays, with their names, types and shapes."""

COUNTER = re.compile(r"_\d+(?![^_/])")
"""What Keras appends to the names of things without one: "variable_12", "pipeline_dense_2_kernel_momentum"."""


def save_variables(path: Path, groups: Groups, metadata: Mapping[str, str]) -> None:
    """Writes Keras variables atomically.

    Args:
        groups: By part ("generator"), its variables in their order.
        metadata: Kept with them, as text.
    """
    arrays = {key: np.array(v.numpy(), order="C") for key, v in _keys(groups).items()}
    with atomic_file(path, sum(array.nbytes for array in arrays.values())) as temporary:
        save_file(arrays, temporary, metadata={**metadata, CHECKSUM: _checksum(arrays)})


def load_variables(path: Path, groups: Groups) -> dict[str, str]:
    """Assigns what `save_variables` wrote; returns the metadata.

    Raises:
        RunError: the file is damaged, or was written for other variables; no variable has changed then.
    """
    variables = _keys(groups)
    arrays, metadata = _read(path)
    if odd := sorted(set(arrays) ^ set(variables))[:3]:
        raise RunError(f"{path} was written for another model: it differs in {', '.join(odd)}")
    for key, variable in variables.items():
        if arrays[key].shape != tuple(variable.shape):
            raise RunError(f"{path}: {key} has shape {arrays[key].shape}, the model wants {tuple(variable.shape)}")
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return metadata


def load_groups(path: Path, groups: Groups) -> None:
    """Assigns some of the groups that `save_variables` wrote.

    Raises:
        RunError: the file is damaged, or a variable is missing on either side or has another shape: all are named, one
            per line, and none is assigned.
    """
    variables = _keys(groups)
    found = {key: array for key, array in _read(path)[0].items() if key.partition(".")[0] in groups}
    wrong = []
    for key in sorted({*found, *variables}):
        there, here = (tuple(side[key].shape) if key in side else "nothing" for side in (found, variables))
        if there != here:
            wrong.append(f"{key}: {there} there, {here} here")
    if wrong:
        raise RunError("\n  ".join(wrong))
    for key, variable in variables.items():
        variable.assign(found[key])


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
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


def _keys(groups: Groups) -> dict[str, Any]:
    """Unique by their numbers. The names are for people, and to see what does not match.

    They do not hold the numbers by which Keras tells layers and variables without a name apart ("dense_2"): these count
    what the process has made before.
    """
    return {
        f"{group}.{index:04d}.{COUNTER.sub('', variable.name)}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
