"""How much memory there is, known before any is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras

from kgen.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""Holds the limit of a container, in bytes, or "max"."""

SIZES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""Bytes of a number by its type; those of all other types take 4."""


def total_memory() -> int:
    """Bytes of memory that this machine, or the container in it, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        found.append(int(CGROUP.read_text(encoding="ascii")))
    return min(found)


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
