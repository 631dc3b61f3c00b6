"""N devices compute what one computes on the same global batch; where a loss has noise, theirs differs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from replicas_job import trained

from kgen.backend.stream import slices
from kgen.testing.replicas import mirrored
from kgen.training.distribution.environment import ADDRESSES, COUNT, INDEX
from kgen.training.distribution.meshes import split_axis

JOB = Path(__file__).parent / "replicas_job.py"
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")


def start(backend: str, devices: int, noise: float, folder: Path, *jobs: str, **env: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", **env}
    command = [sys.executable, str(JOB), str(devices), str(noise), str(folder), *jobs]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(process: subprocess.Popen[str], folder: Path, *jobs: str) -> list[dict[str, np.ndarray]]:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-3000:]
    return [dict(np.load(folder / f"{job}.npz")) for job in jobs]


def validated_alike(one: dict[str, Any], many: dict[str, Any], tolerance: float) -> None:
    """One image is measured, and three are generated: neither number divides among the devices."""
    assert len(one["losses"]) == 2
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=tolerance)
    assert np.abs(many["images"].astype(int) - one["images"]).max() <= 1


def same(one: dict[str, Any], many: dict[str, Any], count: int = 5) -> None:
    """The trained weights, which are a table and two layers of two weights, and their averages."""
    weights = [name for name in one if name[0] in "wa" and name[1:].isdigit()]
    assert len(weights) == 2 * count
    for name in weights:
        np.testing.assert_allclose(many[name], one[name], atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained("none", 0.0, tmp_path_factory.mktemp("one"))


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """`distribute: mirrored` takes two CPU devices."""
    import tensorflow as tf

    strategy = mirrored()  # this process's one strategy: two would mix up their reductions

    def of(devices: list[str]) -> Any:
        assert devices == [device.name for device in tf.config.list_logical_devices("CPU")]
        return strategy

    monkeypatch.setattr(tf.distribute, "MirroredStrategy", of)


@on_tensorflow
@pytest.mark.usefixtures("two_devices")
def test_two_mirrored_devices_equal_one(one_device: dict[str, Any], tmp_path: Path) -> None:
    two = trained("mirrored", 0.0, tmp_path)
    assert two["replicas"] == 2
    same(one_device, two)
    validated_alike(one_device, two, 1e-4)
    first, second = two["sampled"]
    assert np.abs(first - second).min() > 1e-3  # the replicas sample different noise


@on_tensorflow
@pytest.mark.usefixtures("two_devices")
def test_two_mirrored_devices_with_gradient_accumulation_equal_one(one_device: dict[str, Any], tmp_path: Path) -> None:
    two = trained("mirrored", 0.0, tmp_path, micro_batches=2)
    assert two["replicas"] == 2
    same(one_device, two)
    first, second = two["sampled"]
    assert np.abs(first - second).min() > 1e-3


@on_tensorflow
@pytest.mark.usefixtures("two_devices")
def test_two_mirrored_devices_equal_one_with_lora(tmp_path: Path) -> None:
    one, two = (trained(mode, 0.0, tmp_path / mode, lora=True) for mode in ("none", "mirrored"))
    assert (one["replicas"], two["replicas"]) == (1, 2)
    same(one, two, 4)  # two factors of each layer
    validated_alike(one, two, 1e-4)


@on_tensorflow
@pytest.mark.slow
@pytest.mark.usefixtures("two_devices")
def test_two_mirrored_devices_with_several_steps_in_a_call_equal_one(
    one_device: dict[str, Any], tmp_path: Path
) -> None:
    two = trained("mirrored", 0.0, tmp_path, steps_per_execution=5)
    assert two["replicas"] == 2
    same(one_device, two)
    validated_alike(one_device, two, 1e-4)


OTHER_OPTIMIZERS = ("adafactor", "lion", "muon")


@on_tensorflow
@pytest.mark.slow
@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("optimizer", OTHER_OPTIMIZERS)
def test_two_mirrored_devices_equal_one_with_other_optimizers(optimizer: str, tmp_path: Path) -> None:
    one, two = (trained(mode, 0.0, tmp_path / mode, optimizer) for mode in ("none", "mirrored"))
    assert (one["replicas"], two["replicas"]) == (1, 2)
    same(one, two)
    validated_alike(one, two, 1e-4)


def workers(backend: str, devices: int, noise: float, folder: Path, *jobs: str) -> list[list[dict[str, np.ndarray]]]:
    """The results of two workers, each with some devices, in one folder."""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
    processes = []
    for index in range(2):
        config = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        names = {ADDRESSES: addresses[0], COUNT: "2", INDEX: str(index), "TF_CONFIG": config}
        processes.append(start(backend, devices, noise, folder, *jobs, **names))
    other = [f"{job}.1" for job in jobs]
    return [results(process, folder, *names) for process, names in zip(processes, (jobs, other), strict=True)]


@on_tensorflow
@pytest.mark.slow
def test_two_workers_equal_one_device(one_device: dict[str, Any], tmp_path: Path) -> None:
    (first,), (second,) = workers("tensorflow", 1, 0.0, tmp_path, "multi_worker")
    assert first["replicas"] == 2
    same(one_device, first)
    same(one_device, second)
    for found in (first, second):
        assert len(found["losses"]) == 2
        np.testing.assert_allclose(found["losses"], one_device["losses"], rtol=1e-5)
    assert np.abs(first["sampled"] - second["sampled"]).min() > 1e-3


def test_two_jax_devices_equal_one(tmp_path: Path) -> None:
    """One process has two devices. Work that is not distributed uses only the first. TensorFlow is not imported."""
    modes = ("none", "data_parallel", "data_parallel-2", "model_parallel", "none-from_model_parallel")
    one, two, in_parts, split, resumed = results(start("jax", 2, 0.1, tmp_path, *modes), tmp_path, *modes)
    assert [found["replicas"] for found in (one, two, in_parts, split, resumed)] == [1, 2, 2, 2, 1]
    assert not two["tensorflow"]
    for other in (two, in_parts, split, resumed):
        same(one, other)  # also the noise
    for other in (two, split):
        validated_alike(one, other, 0.02)  # the filler takes noise too, so that the image's is another
    assert set(one["parts"]) == set(two["parts"]) == {1.0}
    halves = (split["parts"] == 0.5).sum()
    assert halves >= 4 * 3 and set(split["parts"]) <= {0.5, 1.0}  # weights, two moments and the average


@pytest.mark.slow
def test_two_jax_processes_equal_one(tmp_path: Path) -> None:
    """Each process has two devices. All write one folder."""
    modes = ("data_parallel", "data_parallel-2", "model_parallel", "model_parallel-from_model_parallel")
    found = workers("jax", 2, 0.1, tmp_path, *modes)
    names = sorted(path.name for path in (tmp_path / "model_parallel" / "checkpoints").iterdir())
    assert names == [f"step-000000{step}{of}.safetensors" for step in ("05", "10") for of in ("-00002-of-00002", "")]
    assert len(list((tmp_path / "data_parallel" / "checkpoints").iterdir())) == 2
    alone = ("none", "none-from_model_parallel", "model_parallel-from_model_parallel")
    one, resumed, divided = results(start("jax", 4, 0.1, tmp_path, *alone), tmp_path, *alone)
    assert (one["replicas"], resumed["replicas"], divided["replicas"]) == (1, 1, 4)
    same(one, resumed)
    same(one, divided)
    for worker in found:
        for other in worker:
            assert other["replicas"] == 4
            same(one, other)  # also the noise
            np.testing.assert_allclose(other["losses"][-1], found[0][0]["losses"][-1], rtol=1e-5)
        assert set(worker[0]["parts"]) == {1.0}
        assert (worker[2]["parts"] == 0.25).sum() >= 4 * 2


@pytest.mark.slow
def test_two_jax_devices_continue_what_one_has_begun_with_divided_weights(tmp_path: Path) -> None:
    modes = ("none", "model_parallel-from_none")
    one, two = results(start("jax", 2, 0.1, tmp_path, *modes), tmp_path, *modes)
    assert (one["replicas"], two["replicas"]) == (1, 2)
    same(one, two)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((256, 256), 1),
        ((512, 129), 0),
        ((257, 1024), 1),
        ((256, 255), None),
        ((257, 257), None),
        ((65536,), 0),
        ((), None),
    ],
)
def test_large_weights_are_divided_along_their_largest_axis(shape: tuple[int, ...], axis: int | None) -> None:
    assert split_axis(shape, 2) == axis


@pytest.mark.slow
def test_two_jax_devices_equal_one_with_other_optimizers(tmp_path: Path) -> None:
    jobs = [f"{mode}-{optimizer}" for mode in ("none", "data_parallel") for optimizer in OTHER_OPTIMIZERS]
    found = results(start("jax", 2, 0.1, tmp_path, *jobs), tmp_path, *jobs)
    for one, two in zip(found[:3], found[3:], strict=True):
        assert (one["replicas"], two["replicas"]) == (1, 2)
        same(one, two)
        validated_alike(one, two, 0.02)


@pytest.mark.parametrize(("devices", "size", "batches"), [(1, 3, [3, 3]), (2, 3, [4, 4]), (4, 8, [8]), (4, 1, [4, 4])])
def test_batches_are_filled_up_for_all_devices(
    devices: int, size: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgen.backend.devices.batch_devices", lambda: devices)
    cut = slices({"a": np.arange(5), "nested": {"b": np.arange(5)}}, size)
    assert [len(batch["a"]) for batch in cut] == batches
    rows = np.concatenate([batch["nested"]["b"] for batch in cut])
    np.testing.assert_array_equal(rows, np.arange(len(rows)) % 5)  # the filler is cut off by who reads the result
