"""The engine of Ray: jobs as tasks on two workers, and a worker that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Trained, environment, quickest_backend
from crashes import crash
from made_plugins import Site

from kgen.errors import ConfigError
from kgen.evaluation.results import read_results
from kgen.sweeps.clusters import Ray


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of two machines with one processor each, both of which are this one."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other processes may need much of the memory
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


@pytest.mark.slow
def test_two_workers_train_and_evaluate(kgen: Any, good: Path, cluster: str, tmp_path: Path) -> None:
    variables = {"KERAS_BACKEND": quickest_backend(), "PYTHONPATH": environment()["PYTHONPATH"]}
    options = ("--over", "generator.stride=1,2,3", "-o", "out")
    ray = ("--engine", "ray", "--ray-address", cluster)
    outcome = kgen("sweep", good, *options, *ray, cwd=tmp_path, **variables)
    outcome.refuses("1 of the trainings and evaluations failed", "stride-3 (training): toy/means has a stride of 3")
    assert outcome.out.count("queued ") == 3 and "[3/3]" in outcome.out
    for stride in (1, 2):
        assert read_results(tmp_path / "out" / "trials" / f"stride-{stride}.json")
    kgen("sweep", tmp_path / "out", *ray, "--cpus", "2", cwd=tmp_path).refuses(
        "a job needs 2 processors and 0 GPUs", "1 processors and 0 GPUs; 1 processors"
    )


@pytest.mark.slow
def test_a_lost_worker_ends_only_its_trial(
    site: Site, trained: Trained, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = crash(site, trained.directory, tmp_path / "out", Ray(address=cluster), monkeypatch, "os.getppid()")
    assert [row.finished for row in made.table.rows] == [1, 0, 1]
    ((name, text),) = made.failures.items()
    assert name == "strength-50" and text.startswith("the worker was lost: ")


def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"--ray-address 127\.0\.0\.1:1: cannot be connected to"):
        next(Ray(address="127.0.0.1:1").run([], print))
