"""Two workers on one machine train a decoder and a generator, validate, and render; one is killed at a random moment.

The workers are those of TensorFlow, or of JAX, where both have the same weights, or each has a part of the large ones.

Both are then started again, and end with the very weights and samples of two that were not killed. SIGTERM ends both
at one step.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_plugins import PLUGIN, Site
from safetensors.numpy import load_file

from kgen.storage.checkpoints import checkpoint_steps
from kgen.training.journal import read_rows

pytestmark = pytest.mark.slow

CONFIG = """\
data: {name: shapes, size: 16, count: 40, holdout: [purple square]}
encoder: {name: text/bag, dim: 8}
generator: made/painter
decoder:
  name: made/codec
  fit: {steps: 30, batch_size: 8, checkpoint_every: 10, validate_every: 10, log_every: 10}
distribute: DISTRIBUTE
fit: {steps: 40, batch_size: 8, checkpoint_every: 10, validate_every: 10, log_every: 10, ema: 0.9}
sample: {every: 10, prompts: [a large red circle in the middle]}
evaluate: {metrics: []}
"""

LONG = """\
data: {name: shapes, size: 16, count: 40}
encoder: {name: text/bag, dim: 8}
generator: made/painter
distribute: DISTRIBUTE
fit: {steps: 1000000, batch_size: 8, checkpoint_every: 20, log_every: 10, ema: 0.9}
evaluate: {metrics: []}
"""
"""A training that does not end by itself."""

BACKENDS = {"multi_worker": "tensorflow", "data_parallel": "jax", "model_parallel": "jax"}
"""The backend of each distribution."""

START = """\
from kgen.cli import main
from kgen.training.distribution import meshes
meshes.MIN_SPLIT = 8
main()
"""
"""Starts a worker. 'model_parallel' divides small weights, too."""

TIMEOUT = 240
"""Seconds in which two workers, or the one that is left, end."""


@dataclass(frozen=True)
class Workers:
    """Two processes of a run. `output` has what each has printed."""

    folder: Path
    processes: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]

    def output(self, index: int) -> str:
        return (self.folder / f"worker-{index}.txt").read_text(encoding="utf-8")[-3000:]

    def wait(self, index: int) -> int:
        """The exit status of a worker."""
        try:
            return self.processes[index].wait(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"worker {index} did not end:\n{self.output(index)}") from None


def names(distribute: str, addresses: list[str], index: int) -> dict[str, str]:
    """The environment variables that tell a worker which one it is."""
    if distribute == "multi_worker":
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        return {"TF_CONFIG": json.dumps(cluster)}
    found = {"JOB_ADDRESSES": ",".join(addresses), "NUM_PROCESSES": str(len(addresses)), "PROCESS_ID": str(index)}
    return {f"KERAS_DISTRIBUTION_{name}": value for name, value in found.items()}


@contextmanager
def workers(folder: Path, site: Path, distribute: str, config: str = CONFIG) -> Iterator[Workers]:
    """Starts both workers in a folder; they are killed when the block ends."""
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(config.replace("DISTRIBUTE", distribute), encoding="utf-8")
    with socket.socket() as a, socket.socket() as b:
        for each in (a, b):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (a, b)]
    paths = [str(site), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    processes = []
    for index in range(2):
        environment = {
            **os.environ,
            **names(distribute, addresses, index),
            "KERAS_BACKEND": BACKENDS[distribute],
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KGEN_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        command = [sys.executable, "-c", START, "run", "run.yaml"]
        with (folder / f"worker-{index}.txt").open("wb") as file:
            processes.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
            )
    try:
        yield Workers(folder, (processes[0], processes[1]))
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finish(folder: Path, site: Path, distribute: str) -> None:
    with workers(folder, site, distribute) as both:
        for index in range(2):
            assert both.wait(index) == 0, both.output(index)


def files(folder: Path) -> list[str]:
    """The files of the run, without those of loggers, of which each process begins new ones."""
    run = folder / "runs" / "run"
    found = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if "tensorboard" not in path.parts)


def checkpoints(folder: Path) -> set[str]:
    folders = [folder / "runs" / "run" / stage / "checkpoints" for stage in ("decoder", "")]
    return {str(path) for each in folders for path in each.glob("step-*.safetensors")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    Site(folder).install("made", PLUGIN)
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def distribute(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, site: Path, distribute: str) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, site, distribute)
    return folder


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_is_killed_and_both_are_started_again(
    killed: int, whole: Path, site: Path, distribute: str, tmp_path: Path
) -> None:
    wanted = random.randint(1, 6)
    with workers(tmp_path, site, distribute) as both:
        seen = set[str]()
        while len(seen) < wanted:
            assert all(process.poll() is None for process in both.processes), both.output(0) + both.output(1)
            seen |= checkpoints(tmp_path)
            time.sleep(0.02)
        time.sleep(random.random() * 0.4)
        os.killpg(both.processes[killed].pid, signal.SIGKILL)
        status, output = both.wait(1 - killed), both.output(1 - killed)
        if distribute == "multi_worker":
            assert status == 2 and "lost another one of the 2 workers" in output, output
        else:  # JAX may end the process before it can print the message
            assert status and re.search("lost another one of the 2 workers|JAX distributed service", output), output
    assert not (tmp_path / "runs" / "run" / "model").exists()
    finish(tmp_path, site, distribute)
    assert files(tmp_path) == files(whole)
    for name in files(whole):
        if name.endswith(".png"):
            assert (tmp_path / "runs" / "run" / name).read_bytes() == (whole / "runs" / "run" / name).read_bytes()
        if name.endswith(".safetensors"):
            one, other = (load_file(folder / "runs" / "run" / name) for folder in (whole, tmp_path))
            assert one.keys() == other.keys() and len(one)
            for key, array in one.items():
                np.testing.assert_array_equal(other[key], array, err_msg=f"{name}: {key}")
    for name in ("metrics.csv", "decoder/metrics.csv"):
        rows, others = (read_rows(folder / "runs" / "run" / name) for folder in (whole, tmp_path))
        assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in others]


@pytest.mark.parametrize("signaled", [(1,), (0, 1)])
def test_sigterm_ends_all_workers_at_one_step(
    signaled: tuple[int, ...], site: Path, distribute: str, tmp_path: Path
) -> None:
    with workers(tmp_path, site, distribute, LONG) as both:
        while not checkpoints(tmp_path):
            assert all(process.poll() is None for process in both.processes), both.output(0) + both.output(1)
            time.sleep(0.02)
        for index in signaled:
            both.processes[index].send_signal(signal.SIGTERM)
        began = time.perf_counter()
        codes = [both.wait(index) for index in range(2)]
        assert time.perf_counter() - began < 10
        outputs = [both.output(index) for index in range(2)]
        assert codes == [130, 130], outputs
    first, second = (re.search(r"stopped at step (\d+) of 1000000; a checkpoint is saved", text) for text in outputs)
    assert first and second and first[1] == second[1]
    assert checkpoint_steps(tmp_path / "runs" / "run" / "checkpoints")[-1] == int(first[1])
