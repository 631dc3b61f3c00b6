"""Both loggers in their local modes: what lies in their files afterwards. Those without their package are skipped."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kgen_plugin_loggers.ml_flow import MLflow
from kgen_plugin_loggers.weights_and_biases import WandB

import kgen

CONFIG = {"name": "small", "fit": {"steps": 4, "optimizer": {"name": "kgen/adamw"}}, "loggers": []}
IMAGE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
SCORES = {"train": {"attributes exact (of 4)": 0.25}}


def tell(logger: kgen.Logger, start: int, end: int, scores: dict[str, dict[str, float]] | None) -> None:
    """What one process of a run tells."""
    logger.check()
    logger.begin(CONFIG)
    logger.resume("generator", start)
    for step in range(start + 1, end + 1):
        logger.log("generator", step, {"loss": 1.0 / step, "learning_rate": 0.1})
    logger.image("generator", end, "samples", IMAGE)
    logger.end(scores)


@pytest.mark.parametrize("cls, name", [(WandB, "wandb"), (MLflow, "mlflow")])
def test_a_missing_package_is_named_with_its_extra(
    cls: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(kgen.PluginError) as caught:
        cls(tmp_path).check()
    cure = f"logger '{name}' needs the package {name}: pip install 'kgen-plugin-loggers[{name}]'"
    assert str(caught.value).startswith(cure)


@pytest.mark.parametrize("cls", [WandB, MLflow])
def test_a_logger_opens_nothing_before_begin_is_called(cls: Any, tmp_path: Path) -> None:
    logger = cls(tmp_path)
    assert logger.remote and list(tmp_path.iterdir()) == []
    with pytest.raises(kgen.ConfigError, match="imges: unknown key; did you mean 'images'"):
        cls(tmp_path, imges=False)


# ---- Weights & Biases --------------------------------------------------------------------------------------------


def records(file: Path) -> list[Any]:
    """What W&B has written into a file, in order: a log in LevelDB's format, in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:  # too little for a header: padding
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])  # after a checksum
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def rows(file: Path) -> list[dict[str, str]]:
    history = [record.history for record in records(file) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): item.value_json for item in row.item} for row in history]


def test_weights_and_biases_continues_a_run_in_a_second_process(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    options: dict[str, Any] = {"mode": "offline", "project": "mine", "tags": ("small",)}
    tell(WandB(tmp_path, **options), 0, 3, None)
    tell(WandB(tmp_path, **options), 2, 4, SCORES)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "one id"
    steps = [[row["generator/step"] for row in rows(file) if "generator/loss" in row] for file in files]
    assert sorted(steps, key=len) == [["3", "4"], ["1", "2", "3"]]
    first = next(file for file, found in zip(files, steps, strict=True) if len(found) == 3)
    assert [row["generator/loss"] for row in rows(first)[:2]] == ["1", "0.5"]
    [run] = [record.run for record in records(first) if record.HasField("run")]
    assert (run.display_name, run.project, list(run.tags)) == ("small", "mine", ["small"])
    config = {item.key or "/".join(item.nested_key): item.value_json for item in run.config.update}
    assert "kgen/adamw" in str(config)
    (image,) = first.parent.glob("files/media/images/generator/samples_*.png")
    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(image)), IMAGE)
    text = str([records(file) for file in files])
    assert "attributes exact (of 4)" in text and "0.25" in text


def test_without_a_login_online_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(kgen.ConfigError, match="nobody is logged in: give 'wandb login', set WANDB_API_KEY, or"):
        WandB(tmp_path).check()


# ---- MLflow ------------------------------------------------------------------------------------------------------


def test_mlflow_continues_a_run_in_a_second_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tell(MLflow(tmp_path, tracking_uri=uri, experiment="mine"), 0, 2, None)
    client = mlflow.MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("small", "KILLED")
    tell(MLflow(tmp_path, tracking_uri=uri, experiment="mine"), 2, 4, SCORES)
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "generator/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert run.data.metrics["train/attributes exact _of 4_"] == 0.25
    assert run.data.params == {"name": "small", "fit.steps": "4", "fit.optimizer.name": "kgen/adamw", "loggers": "[]"}
    assert {"config.yaml", "images"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_a_server_that_does_not_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(kgen.ConfigError, match=r"logger 'mlflow': tracking_uri: http://127\.0\.0\.1:9 cannot be used"):
        MLflow(tmp_path, tracking_uri="http://127.0.0.1:9").check()


# ---- the registry ------------------------------------------------------------------------------------------------


def test_both_are_registered() -> None:
    from kgen.plugins.discovery import registry

    assert registry().find("logger", "loggers/wandb").load() is WandB
    assert registry().find("logger", "loggers/mlflow").load() is MLflow
