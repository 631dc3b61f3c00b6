"""Opens the distribution that a run file names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import keras

from kgen.errors import ConfigError
from kgen.training.distribution.base import Distribution
from kgen.training.distribution.environment import jax_process, tensorflow_worker
from kgen.training.distribution.meshes import data_parallel, model_parallel
from kgen.training.distribution.strategies import mirrored, multi_worker, tpu

Name = Literal["none", "mirrored", "multi_worker", "tpu", "data_parallel", "model_parallel"]

ON_JAX = ("data_parallel", "model_parallel")


def leads(name: Name) -> bool:
    """Whether this process is worker 0 of its distribution. Raises ConfigError if the environment is wrong."""
    if name == "multi_worker":
        return tensorflow_worker()[0] == 0
    process = jax_process() if name in ON_JAX else None
    return process is None or process.index == 0


def open_distribution(name: Name) -> Distribution:
    """Sets up the devices. It must be called before any tensor exists.

    Raises:
        ConfigError: the backend or the machine does not support this, or another process is missing.
    """
    if name == "none":
        return Distribution()
    backend = keras.backend.backend()
    wanted = "jax" if name in ON_JAX else "tensorflow"
    if backend != wanted:
        raise ConfigError(f"distribute: '{name}' needs the {wanted} backend, but this is {backend}: set KERAS_BACKEND")
    return _OPEN[name]()


_OPEN: dict[str, Callable[[], Distribution]] = {
    "data_parallel": data_parallel,
    "model_parallel": model_parallel,
    "mirrored": mirrored,
    "multi_worker": multi_worker,
    "tpu": tpu,
}
