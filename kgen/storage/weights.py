"""Saves variables in safetensors files, by name, with a checksum that reveals damage."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
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

WEIGHTS = "weights.safetensors"
"""The name of the file of weights of a saved pipeline or decoder."""

PARTS = ("encoder", "generator", "decoder")
"""The parts of a pipeline, with which the paths of weights begin."""

STAGES = ("encoder", "decoder")
"""The parts that can be trained in a separate stage. The folder of the stage in the run directory has the same name."""

RANDOM_STATE = "random_state"
"""The last part of the path of a random generator's state, which is not a weight."""

CHECKSUM = "checksum"
"""The key of the checksum in the metadata. It covers all arrays, with their names, types and shapes."""

CRC32 = "crc32-"
"""The beginning of a checksum. That of an older kgen has none."""

SHARDS, AXES = "shards", "axes"
"""Keys of the metadata of arrays that several processes have written (`kgen.storage.shards`): the number of files, and
the axes along which the arrays of the files are joined, as JSON."""

MAX_NAMED = 3
"""Number of names in a message about a file that was written for another model."""


def save_variables(path: Path, variables: Variables, metadata: Mapping[str, str]) -> None:
    """Writes Keras variables atomically.

    Args:
        path: The file.
        variables: The variables by name; arrays take their place.
        metadata: Texts that are saved with them.
    """
    values = {name: v if isinstance(v, np.ndarray) else v.numpy() for name, v in variables.items()}
    arrays = {name: np.asarray(value, order="C") for name, value in values.items()}
    with atomic_file(path, sum(array.nbytes for array in arrays.values())) as temporary:
        save_file(arrays, temporary, metadata={**metadata, CHECKSUM: checksum_of(arrays)})


def load_variables(
    path: Path, variables: Variables, migrate: Callable[[Arrays], Arrays] = lambda arrays: arrays
) -> dict[str, str]:
    """Assigns the variables that `save_variables` wrote, and returns the metadata.

    Args:
        path: The file.
        variables: The variables by name.
        migrate: Changes the names in an older file to those of today.

    Raises:
        RunError: the file is damaged, or was written for other variables. No variable is changed then.
    """
    arrays, metadata = read_arrays(path)
    arrays = migrate(arrays)
    if odd := sorted(set(arrays) ^ set(variables))[:MAX_NAMED]:
        raise RunError(f"{path} was written for another model: it differs in {', '.join(odd)}")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise RunError(
                f"{path}: {name} has the shape {arrays[name].shape}, the model needs {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return metadata


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a file and its metadata. If several processes wrote parts of the arrays, they are joined.

    Raises:
        RunError: a file is damaged or missing.
    """
    arrays, metadata = _read_file(path)
    count, axes = int(metadata.pop(SHARDS, "1")), json.loads(metadata.pop(AXES, "{}"))
    files = [shard_file(path, index, count) for index in range(1, count)]
    shards = {name: [arrays[name]] for name in axes}
    for file in files:
        found, there = _read_file(file)
        if set(found) != set(axes) or there.get(SHARDS) != str(count) or there.get("step") != metadata.get("step"):
            raise RunError(f"{file} was not written together with {path}")
        for name, array in found.items():
            shards[name].append(array)
    return {**arrays, **{name: np.concatenate(parts, axes[name]) for name, parts in shards.items()}}, metadata


def shard_file(path: Path, index: int, count: int) -> Path:
    """The file of one of several processes: `path` itself for the first, or else one such as
    `step-00000010-00002-of-00002.safetensors`.
    """
    return path.with_name(f"{path.stem}-{index + 1:05d}-of-{count:05d}{path.suffix}") if index else path


def _read_file(path: Path) -> tuple[Arrays, dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # the last two: numpy lacks the type
        raise RunError(f"{path} cannot be read: {error}") from error
    saved = metadata.pop(CHECKSUM, None)
    checksum = checksum_of if saved is None or saved.startswith(CRC32) else _older_checksum
    if saved is not None and saved != checksum(arrays):
        raise RunError(f"{path} is damaged: its numbers do not match their checksum")
    return arrays, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `save_variables` wrote. Raises RunError if the file cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def find_weights(path: Path, stages: Sequence[str] = STAGES) -> Path:
    """The file of weights of a run, a saved pipeline or a saved part, or the given file itself.

    If the generator of a run is not trained yet, these are the weights of its encoder or decoder.

    Args:
        path: The run, folder or file.
        stages: The parts whose weights may be used then; the first one that is trained is used.

    Raises:
        RunError: there are no weights.
    """
    folders = (path / "model", path, *(path / stage / "model" for stage in stages))
    files = [path] if path.is_file() else [folder / WEIGHTS for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        problem = "it contains no trained weights" if path.exists() else "there is no such file or folder"
        raise RunError(f"{path}: {problem}; give a finished run, a saved pipeline, or a file of weights")
    return found


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights in a file, by path. It reads no weights.

    Raises:
        RunError: the file cannot be read, or has no weights with paths.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    found = {
        name: shape
        for name, shape in shapes.items()
        if name.startswith(tuple(f"{part}/" for part in PARTS)) and not name.endswith(f"/{RANDOM_STATE}")
    }
    if not found:
        raise RunError(
            f"{path} contains no weights of {' or '.join(f'{part}/*' for part in PARTS)}: if an older kgen saved it, "
            "save it again with kgen.load(RUN).save(FOLDER)"
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(arrays: Mapping[str, Any]) -> str:
    """A digest of the names, types, shapes and CRC-32 of all arrays, or variables, by their names.

    CRC-32 takes a fifth of the time of BLAKE2b.
    """
    from kgen.backend.variables import copied  # imports Keras, which nothing does before a backend is selected

    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(arrays.items()):
        array = value if isinstance(value, np.ndarray) else copied(value)
        digest.update(f"{key} {array.dtype} {array.shape} {zlib.crc32(_bytes(array))}\n".encode())
    return f"{CRC32}{digest.hexdigest()}"


def _older_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum in files that an older kgen wrote."""
    digest = hashlib.blake2b(digest_size=16)
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
