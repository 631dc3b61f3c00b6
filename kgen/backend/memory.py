"""Measures the memory of the machine and its use, and refuses weights that do not fit."""

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
"""Files with the memory limit of a container on Linux, in bytes or "max": control groups of versions 2 and 1."""

SIZES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""Bytes per number by type; all other types take 4 bytes."""


def total_memory() -> int:
    """The memory of this machine, or of the container, in bytes."""
    found = [int(psutil.virtual_memory().total)]
    for limit in LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(limit.read_text(encoding="ascii")))
    return min(found)


def peak_memory() -> int:
    """The peak memory of this process, in MiB, without the memory of an accelerator."""
    try:
        import resource  # missing on Windows, the only system where psutil knows the peak
    except ImportError:
        return int(psutil.Process().memory_info().peak_wset) // 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def accelerator_memory(peak: bool = True) -> float | None:
    """The memory of the first accelerator of this process that the backend's tensors take.

    Args:
        peak: Whether to return the largest memory since the process began, or that of now.

    Returns:
        The memory in MiB; None if the process has no accelerator, or its backend does not count its memory.
    """
    backend = keras.backend.backend()
    found: float | None = None
    if backend == "jax":
        import jax

        found = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use" if peak else "bytes_in_use")
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            found = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            found = tf.config.experimental.get_memory_info("GPU:0")["peak" if peak else "current"]
    return None if found is None else found / 2**20


@contextmanager
def weights_fit() -> Iterator[None]:
    """Refuses weights whose total size exceeds the memory, before they are allocated. It also works as a decorator.

    Raises:
        ConfigError: the weights do not fit; the message names the weight that exceeds the memory.
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
