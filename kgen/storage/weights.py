"""Saves variables in safetensors files, by part, number and name, with a checksum that reveals damage."""

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
"""The key of the checksum in the metadata. It covers all arrays, with their names, types and shapes."""

COUNTER = re.compile(r"_\d+(?![^_/])")
"""The counter in default names of Keras: "variable_12", "pipeline_dense_2_kernel_momentum"."""


def save_variables(path: Path, groups: Groups, metadata: Mapping[str, str]) -> None:
    """Writes Keras variables atomically.

    Args:
        path: The file.
        groups: The variables of each part ("generator"), in their order.
        metadata: Texts that are saved with them.
    """
    arrays = {key: np.array(v.numpy(), order="C") for key, v in _keys(groups).items()}
    with atomic_file(path, sum(array.nbytes for array in arrays.values())) as temporary:
        save_file(arrays, temporary, metadata={**metadata, CHECKSUM: _checksum(arrays)})


def load_variables(path: Path, groups: Groups) -> dict[str, str]:
    """Assigns the variables that `save_variables` wrote, and returns the metadata.

    Raises:
        RunError: the file is damaged, or was written for other variables. No variable is changed then.
    """
    variables = _keys(groups)
    arrays, metadata = _read(path)
    if odd := sorted(set(arrays) ^ set(variables))[:3]:
        raise RunError(f"{path} was written for another model: it differs in {', '.join(odd)}")
    for key, variable in variables.items():
        if arrays[key].shape != tuple(variable.shape):
            raise RunError(f"{path}: {key} has the shape {arrays[key].shape}, the model needs {tuple(variable.shape)}")
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return metadata


def load_groups(path: Path, groups: Groups) -> None:
    """Assigns some of the groups that `save_variables` wrote.

    Raises:
        RunError: the file is damaged, or a variable is missing on either side or has another shape. The message lists
            all such variables, one per line, and none is assigned.
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
    """The arrays of a file and its metadata. Raises RunError if the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # the last two: numpy lacks the type
        raise RunError(f"{path} cannot be read: {error}") from error
    if metadata.pop(CHECKSUM, found := _checksum(arrays)) != found:
        raise RunError(f"{path} is damaged: its numbers do not match their checksum")
    return arrays, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `save_variables` wrote. Raises RunError if the file cannot be read."""
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
    """The variables by keys that their number makes unique. The name in a key helps people, and reveals a mismatch.

    Keys omit the counters of Keras's default names ("dense_2"), which depend on what the process has created before.
    """
    return {
        f"{group}.{index:04d}.{COUNTER.sub('', variable.name)}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
