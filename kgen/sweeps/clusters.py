"""The engine that runs the jobs of a sweep with Ray, on a cluster or on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kgen.errors import ConfigError, PluginError
from kgen.sweeps.engines import Ended, Engine, Say, describe, run_process
from kgen.sweeps.jobs import Job

SECONDS = 20.0
"""Time in seconds in which the head of a cluster must accept a connection."""

PASSED_ON = ("KERAS_BACKEND", "KGEN_DEBUG", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")
"""Environment variables of this process that all jobs receive."""


class Ray(Engine):
    """Runs each job as a task of Ray. As many jobs run at the same time as the cluster has processors for.

    All machines need the same kgen, and must see the folder of the sweep and the data under the same paths. A task runs
    its job in a separate process, as the default engine does, so that the memory of a GPU is free afterwards.

    Args:
        address: The address of a cluster, such as "auto" or "ray://HOST:10001"; None: this machine alone.
        cpus: Number of processors per job.
        gpus: Number of GPUs per job. Jobs can share a GPU: 0.5 is allowed.

    Raises:
        PluginError: Ray is not installed.
    """

    parallel = True

    def __init__(self, *, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise PluginError(f'the engine ray needs Ray ({error}): pip install "kgen-core[ray]"') from error
        self.ray: Any = ray
        self.address, self.cpus, self.gpus = address, cpus, gpus

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        """Yields each job when its task has ended. If a worker is lost, only its own job fails.

        Raises:
            ConfigError: the cluster cannot be reached, or none of its machines can run a job.
        """
        started = self._connect()
        running: dict[Any, Job] = {}
        try:
            self._require_resources()
            task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_do)
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            for job in jobs:
                running[task.remote(job.to_json(), environment, str(Path.cwd()))] = job
                log(f"queued {describe(job)}")
            while running:
                (ready,), _ = self.ray.wait(list(running), num_returns=1)
                job = running.pop(ready)
                yield job, self._outcome(ready)
                log(f"[{len(jobs) - len(running)}/{len(jobs)}] {job.name} has ended")
        finally:
            for left in running:
                self.ray.cancel(left)
            if running:
                self.ray.wait(list(running), num_returns=len(running), timeout=150)
            if started:
                self.ray.shutdown()

    def _connect(self) -> bool:
        """Connects to the cluster. Returns whether it was not connected before."""
        if self.ray.is_initialized():
            return False
        _require_reachable(self.address)
        try:
            local = {} if self.address else {"include_dashboard": False}
            self.ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = f"--ray-address {self.address}: cannot be connected to" if self.address else "Ray does not start"
            raise ConfigError(f"{where}: {first}") from error
        return True

    def _require_resources(self) -> None:
        """Raises ConfigError if no machine of the cluster can run a job, because such a job would wait forever."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            offered = "; ".join(f"{node.get('CPU', 0):g} processors and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a job needs {self.cpus:g} processors and {self.gpus:g} GPUs, but the machines of the cluster have "
                f"{offered}: choose fewer with --cpus and --gpus"
            )

    def _outcome(self, task: Any) -> Ended:
        try:
            status, lines = self.ray.get(task)
            return Ended(status, lines)
        except self.ray.exceptions.RayError as error:  # the worker, or its machine, is lost
            return Ended(1, lost=" ".join(str(error).split()) or type(error).__name__)


def _require_reachable(address: str | None) -> None:
    """Raises ConfigError if nothing listens at HOST:PORT. Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--ray-address {address}: cannot be connected to: {error}") from error


def _do(job: str, environment: Mapping[str, str], folder: str) -> tuple[int, list[str]]:
    """Runs a job in a process, on the machine that Ray has chosen. Returns its exit status and its last lines."""
    ended = run_process(Job.from_json(job), lambda line: None, environment, Path(folder))
    return ended.status, list(ended.lines)
