"""What the environment variables say about the workers: TF_CONFIG, and those of Keras, Slurm and Open MPI."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from kgen.errors import ConfigError

ADDRESSES, COUNT, INDEX = (f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
"""The variables that `keras.distribution.initialize` reads."""

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
"""The variable from which JAX takes the address of process 0, if Keras's has none."""

LAUNCHERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
"""The number of processes, and the index of this one, as Slurm (srun) and Open MPI (mpirun) give them."""


@dataclass(frozen=True)
class JaxProcess:
    """One of several processes of JAX.

    Args:
        index, count: Index of this process, and number of processes.
        address: HOST:PORT of process 0; None: JAX asks the launcher (Slurm, Open MPI).
    """

    index: int
    count: int
    address: str | None


def tensorflow_worker() -> tuple[int, int]:
    """The index of this worker, and the number of workers, from TF_CONFIG. Raises ConfigError if it is wrong."""
    text = os.environ.get("TF_CONFIG", "")
    check_cluster(text)
    found = json.loads(text)
    return found["task"]["index"], len(found["cluster"]["worker"])


def check_cluster(text: str) -> None:
    """Checks the environment variable TF_CONFIG, which must name the workers and this one. Raises ConfigError."""
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        found = json.loads(text)
        workers, task = found["cluster"]["worker"], found["task"]
        if not workers or not isinstance(workers, list) or not all(map(_is_address, workers)):
            raise ValueError("'cluster.worker' must list addresses, HOST:PORT")
        if task["type"] != "worker":
            raise ValueError(f"'task.type' must be 'worker', not {task['type']!r}")
        if type(task["index"]) is not int or not 0 <= task["index"] < len(workers):
            raise ValueError(f"'task.index' must be one of 0 to {len(workers) - 1}, not {task['index']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        reason = "it is not set" if not text else reason
        raise ConfigError(
            "distribute: 'multi_worker' needs the environment variable TF_CONFIG to name the workers, and which one "
            f"this is, such as {example}: {reason}"
        ) from error


def jax_process() -> JaxProcess | None:
    """Which of several processes of JAX this is; None: there is only one. Raises ConfigError if a variable is wrong."""
    launched = next((names for names in LAUNCHERS if all(name in os.environ for name in names)), None)
    given = [name for name in (ADDRESSES, COUNT, INDEX, COORDINATOR) if os.environ.get(name)]
    if not given and launched is None:
        return None
    count_name, index_name = (
        name if os.environ.get(name) or launched is None else other
        for name, other in zip((COUNT, INDEX), launched or ("", ""), strict=True)
    )
    count = _whole_number(count_name, 1)
    index = _whole_number(index_name, 0)
    if index >= count:
        raise _wrong(f"{index_name} must be one of 0 to {count - 1}, not {index}")
    addresses = os.environ.get(ADDRESSES) or os.environ.get(COORDINATOR)
    if count == 1:
        return None
    if not addresses:
        if launched is None:
            raise _wrong(f"{ADDRESSES} is not set")
        return JaxProcess(index, count, None)
    listed = addresses.split(",")
    if not all(map(_is_address, listed)):
        raise _wrong(f"{ADDRESSES} must list addresses, HOST:PORT, not {addresses!r}")
    if len(listed) not in (1, count):
        raise _wrong(f"{ADDRESSES} lists {len(listed)} addresses, but {count_name} is {count}")
    return JaxProcess(index, count, listed[0])


def _whole_number(name: str, least: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        raise _wrong(f"{name} is not set")
    if not text.isdecimal() or int(text) < least:
        raise _wrong(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _wrong(reason: str) -> ConfigError:
    return ConfigError(
        "distribute: several processes of JAX need three environment variables, such as "
        f"{ADDRESSES}=host1:2222 {COUNT}=2 {INDEX}=0, where the address is that of process 0: {reason}"
    )


def _is_address(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r".+:\d+", text) is not None
