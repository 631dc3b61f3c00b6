"""Copies and restores the values of variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


def copied(variable: Any, memory: np.ndarray | None = None) -> np.ndarray:
    """A copy of a variable's value in the memory of the host, which no later step changes.

    If it is divided among several processes (JAX), all of them must call this, because each sends its part.

    Args:
        variable: The variable.
        memory: An earlier copy of it, which is no longer needed. The new one takes its memory.
    """
    on_replicas = keras.backend.backend() == "tensorflow"  # a variable may have a copy on each replica
    value = variable.numpy() if on_replicas else keras.ops.convert_to_numpy(_gathered(variable.value))
    if memory is None:
        return np.require(value, requirements=["C", "OWNDATA", "WRITEABLE"])
    np.copyto(memory, value)
    return memory


def snapshot(variable: Any) -> Any:
    """A copy of a variable's value that `assign` takes, and that no later step changes.

    It is in the memory of the host. If several processes share the variable (JAX), each copies its part on its devices.
    """
    shared = keras.backend.backend() == "jax" and not variable.value.is_fully_addressable
    return keras.ops.copy(variable.value) if shared else copied(variable)


def is_divided(variable: Any) -> bool:
    """Whether this process has only a part of a variable's value, and other processes have the others (JAX)."""
    return keras.backend.backend() == "jax" and _is_divided(variable.value)


def own_shard(variable: Any) -> tuple[np.ndarray, int]:
    """A copy of the part of a divided variable that this process has, and the axis along which all parts are joined."""
    value = variable.value
    axis = next(number for number, name in enumerate(value.sharding.spec) if name is not None)
    shards = sorted(value.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards], axis), axis


def _is_divided(value: Any) -> bool:
    return not (value.is_fully_addressable or value.is_fully_replicated)


def _gathered(value: Any) -> Any:
    """A tensor with all of its parts on each device, if other processes have some of them (JAX)."""
    if keras.backend.backend() != "jax" or not _is_divided(value):
        return value
    import jax

    whole = jax.sharding.NamedSharding(value.sharding.mesh, jax.sharding.PartitionSpec())
    return jax.jit(_same, out_shardings=whole)(value)


def _same(value: Any) -> Any:
    """The value itself. JAX compiles a program once for each function, and therefore not for a new lambda each time."""
    return value


@contextmanager
def kept_variables(variables: Iterable[Any]) -> Iterator[None]:
    """Restores the values of variables after the block."""
    kept = [(variable, snapshot(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
