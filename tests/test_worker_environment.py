"""How a worker learns which one it is, and finds the others: environment variables, and a meeting before JAX begins."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

import kgen
from kgen.training.distribution.environment import (
    ADDRESSES,
    COORDINATOR,
    COUNT,
    INDEX,
    LAUNCHERS,
    JaxProcess,
    check_cluster,
    jax_process,
)
from kgen.training.distribution.meeting import meet
from kgen.training.distribution.opening import leads

pytestmark = pytest.mark.portable

SLURM, MPI = (dict(zip(names, ("4", "3"), strict=True)) for names in LAUNCHERS)
"""The last of four processes."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ADDRESSES, COUNT, INDEX, COORDINATOR, "TF_CONFIG", *(name for names in LAUNCHERS for name in names)):
        monkeypatch.delenv(name, raising=False)


# ---- TensorFlow ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not set"),
        ("{", "such as"),
        ("[1]", "such as"),
        ("{}", "'cluster' is missing"),
        (json.dumps({"cluster": {"worker": ["a:1"]}}), "'task' is missing"),
        (json.dumps({"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}), "must list addresses"),
        (json.dumps({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}), "HOST:PORT"),
        (json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}), "0 to 0, not 1"),
        (json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}), "not '0'"),
        (json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}), "not 'ps'"),
    ],
)
def test_a_wrong_cluster_is_refused(text: str, message: str) -> None:
    with pytest.raises(kgen.ConfigError, match=f"TF_CONFIG.*{message}"):
        check_cluster(text)


def test_a_valid_cluster_passes() -> None:
    check_cluster(json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}))


def test_worker_0_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(leads, ("none", "mirrored", "data_parallel", "model_parallel")))
    monkeypatch.setenv(ADDRESSES, "a:1")
    monkeypatch.setenv(COUNT, "2")
    for index in (0, 1):
        cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        monkeypatch.setenv(INDEX, str(index))
        assert leads("multi_worker") == leads("data_parallel") == leads("model_parallel") == (index == 0)
        assert leads("mirrored")  # the variables have no meaning for it
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(kgen.ConfigError, match=r"TF_CONFIG .* it is not set"):
        leads("multi_worker")


# ---- JAX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "process"),
    [
        ({}, None),
        ({COUNT: "1", INDEX: "0"}, None),
        ({ADDRESSES: "a:1", COUNT: "2", INDEX: "1"}, JaxProcess(1, 2, "a:1")),
        ({ADDRESSES: "a:1,b:2", COUNT: "2", INDEX: "0"}, JaxProcess(0, 2, "a:1")),
        ({COORDINATOR: "a:1", COUNT: "2", INDEX: "0"}, JaxProcess(0, 2, "a:1")),
        (SLURM, JaxProcess(3, 4, None)),
        (MPI, JaxProcess(3, 4, None)),
        ({**SLURM, ADDRESSES: "a:1"}, JaxProcess(3, 4, "a:1")),
        ({**SLURM, COUNT: "1", INDEX: "0"}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ],
)
def test_the_variables_of_keras_jax_and_launchers(
    variables: dict[str, str], process: JaxProcess | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert jax_process() == process


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({ADDRESSES: "a:1"}, f"{COUNT} is not set"),
        ({ADDRESSES: "a:1", COUNT: "2"}, f"{INDEX} is not set"),
        ({COUNT: "2", INDEX: "0"}, f"{ADDRESSES} is not set"),
        ({ADDRESSES: "a:1", COUNT: "two", INDEX: "0"}, f"{COUNT} must be a whole number of at least 1, not 'two'"),
        ({ADDRESSES: "a:1", COUNT: "2", INDEX: "2"}, f"{INDEX} must be one of 0 to 1, not 2"),
        ({ADDRESSES: "a", COUNT: "2", INDEX: "0"}, "HOST:PORT, not 'a'"),
        ({ADDRESSES: "a:1,b:2", COUNT: "3", INDEX: "0"}, f"lists 2 addresses, but {COUNT} is 3"),
    ],
)
def test_wrong_variables_are_refused(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kgen.ConfigError, match=f"such as {ADDRESSES}=host1:2222 {COUNT}=2 {INDEX}=0.*{message}"):
        leads("data_parallel")


@pytest.fixture
def address() -> Iterator[str]:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = free.getsockname()[1]
    yield f"127.0.0.1:{found}"


def test_processes_meet(address: str) -> None:
    """Process 0 comes last."""
    done: list[int] = []

    def come(index: int) -> None:
        meet(JaxProcess(index, 3, address), 20)
        done.append(index)

    threads = [threading.Thread(target=come, args=(index,)) for index in (1, 2, 0)]
    for thread in threads:
        assert not done
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2]
    meet(JaxProcess(3, 4, None))  # the launcher has started all of them


def test_a_missing_process_is_named(address: str) -> None:
    with pytest.raises(kgen.ConfigError, match=f"of 3 processes, 1, 2 did not report to process 0 at {address} within"):
        meet(JaxProcess(0, 3, address), 0.3)
    with pytest.raises(kgen.ConfigError, match=f"process 1 of 2 did not find process 0 at {address} within 0.3 sec"):
        meet(JaxProcess(1, 2, address), 0.3)


def test_the_port_of_process_0_must_be_free(address: str) -> None:
    message = r"process 0 cannot listen .* choose another port"
    with socket.create_server(("", int(address.rpartition(":")[2]))), pytest.raises(kgen.ConfigError, match=message):
        meet(JaxProcess(0, 2, address), 0.3)
