"""How much memory there is, known before any is taken; and how much was taken."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import psutil

from kgen.errors import ConfigError

LIMITS = tuple(map(Path, ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")))
"""Hold the limit of a container on Linux, in bytes, or "max": control groups of version 2, and of version 1."""

SIZES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""Bytes of a number by its type; those of all other types take 4."""


def total_memory() -> int:
    """Bytes of memory that this machine, or the container in it, has."""
    found = [int(psutil.virtual_memory().total)]
    for limit in LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(limit.read_text(encoding="ascii")))
    return min(found)


def peak_memory() -> int:
    """The most memory that this process has used, in MiB; of an accelerator's own memory, nothing."""
    try:
        import resource  # psutil knows the peak on Windows alone, where this module is missing
    except ImportError:
        return int(psutil.Process().memory_info().peak_wset) // 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


@contextmanager
def weights_fit() -> Iterator[None]:
    """Refuses weights that all together take more memory than there is, before they take it; also a decorator.

    Raises:
        ConfigError: with the weight at which the memory ends.
    """
    add_weight, room, taken = keras.layers.Layer.add_weight, total_memory(), 0

    def counted(layer: Any, *args: Any, **options: Any) -> Any:
        nonlocal taken
        shape = (args[0] if args else options.get("shape")) or ()
        kind = keras.backend.standardize_dtype(options.get("dtype") or layer.variable_dtype)
        taken += math.prod(map(int, shape)) * SIZES.get(kind, 4)
        if taken > room:
            raise ConfigError(
                f"the weights are too large for this machine: {taken / 2**30:,.0f} GiB of {room / 2**30:,.1f} GiB are "
                f"needed up to the weight {'x'.join(map(str, shape))} of layer '{layer.path}'; choose smaller options"
            )
        return add_weight(layer, *args, **options)

    keras.layers.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight
