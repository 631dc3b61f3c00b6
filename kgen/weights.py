"""Variables in safetensors files: by part and number, so that names a process gave do not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgen.errors import RunError
from kgen.files import atomic_file

Groups = Mapping[str, Sequence[Any]]


def save_variables(path: Path, groups: Groups, metadata: Mapping[str, str]) -> None:
    """Writes Keras variables atomically.

    Args:
        groups: By part ("generator"), its variables in their order.
        metadata: Kept with them, as text.
    """
    arrays = {key: np.array(v.numpy(), order="C") for key, v in _keys(groups).items()}
    with atomic_file(path, sum(array.nbytes for array in arrays.values())) as temporary:
        save_file(arrays, temporary, metadata=dict(metadata))


def load_variables(path: Path, groups: Groups) -> dict[str, str]:
    """Assigns what `save_variables` wrote; returns the metadata.

    Raises:
        RunError: the file is damaged, or was written for other variables.
    """
    variables = _keys(groups)
    try:
        with safe_open(path, framework="numpy") as file:
            if set(file.keys()) != set(variables):
                odd = sorted(set(file.keys()) ^ set(variables))[:3]
                raise RunError(f"{path} was written for another model: it differs in {', '.join(odd)}")
            for key, variable in variables.items():
                array = file.get_tensor(key)
                if array.shape != tuple(variable.shape):
                    raise RunError(f"{path}: {key} has shape {array.shape}, the model wants {tuple(variable.shape)}")
                variable.assign(array)
            return file.metadata() or {}
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # the last two: a type that numpy lacks
        raise RunError(f"{path} cannot be read: {error}") from error


def _keys(groups: Groups) -> dict[str, Any]:
    return {
        f"{group}.{index:04d}.{variable.name}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
