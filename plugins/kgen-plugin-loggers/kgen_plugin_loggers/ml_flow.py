"""The logger for MLflow. A run directory is one run in MLflow, also over several processes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import kgen
from kgen_plugin_loggers.packages import package

ID = "mlflow-run-id"
"""The file in a run directory with the id of the run in MLflow."""

FORBIDDEN = re.compile(r"[^\w\-. /:]")
"""Characters that MLflow does not allow in names."""

MAX_VALUE, BATCH = 6000, 100
"""Largest number of characters of a parameter, and of parameters in one call, that MLflow accepts."""


class MLflow(kgen.Logger):
    """Sends rows, images, the configuration and scores to MLflow.

    A resumed run continues under the same id. Rows that it computes again, because the process was killed, appear twice
    in MLflow. The configuration becomes parameters ("fit.steps") and the file `config.yaml`.

    Args:
        tracking_uri: The server or database, such as "http://host:5000" or "sqlite:///mlflow.db"; null: MLflow's
            default, which MLFLOW_TRACKING_URI can set.
        experiment: The experiment, which is created if it does not exist.
        images: Whether to send images, too.
    """

    remote = True

    def __init__(
        self, directory: Path, *, tracking_uri: str | None = None, experiment: str = "kgen", images: bool = True
    ) -> None:
        super().__init__()
        self.directory = directory
        self.tracking_uri, self.experiment, self.images = tracking_uri, experiment, images
        self.client: Any = None
        self.run = ""

    def check(self) -> None:
        mlflow = package("mlflow")
        try:
            mlflow.MlflowClient(self.tracking_uri).get_experiment_by_name(self.experiment)
        except Exception as error:  # the exceptions depend on the store or server
            where = self.tracking_uri or mlflow.get_tracking_uri()
            raise kgen.ConfigError(f"logger 'mlflow': tracking_uri: {where} cannot be used: {error}") from error

    def begin(self, config: Mapping[str, Any]) -> None:
        mlflow = package("mlflow")
        self.client = mlflow.MlflowClient(self.tracking_uri)
        file = self.directory / ID
        if file.is_file():
            self.run = file.read_text(encoding="utf-8").strip()
            self.client.update_run(self.run, status="RUNNING")
        else:
            found = self.client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else self.client.create_experiment(self.experiment)
            self.run = self.client.create_run(experiment, run_name=config["name"]).info.run_id
            file.write_text(self.run, encoding="utf-8")
            params = [
                mlflow.entities.Param(_name(key), value[:MAX_VALUE]) for key, value in _flat(config) if value != ""
            ]
            for start in range(0, len(params), BATCH):
                self.client.log_batch(self.run, params=params[start : start + BATCH])
        self.client.log_dict(self.run, dict(config), "config.yaml")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._numbers({f"{stage}/{name}": value for name, value in values.items()}, step)

    def image(self, stage: str, step: int, name: str, image: np.ndarray) -> None:
        if self.images:
            self.client.log_image(self.run, image, key=_name(f"{stage}.{name}"), step=step)

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        numbers = {f"{split}/{n}": value for split, found in (scores or {}).items() for n, value in found.items()}
        if numbers:
            self._numbers(numbers, 0)
        self.client.set_terminated(self.run, "KILLED" if scores is None else "FINISHED")

    def _numbers(self, values: Mapping[str, float], step: int) -> None:
        now, metric = int(time.time() * 1000), package("mlflow").entities.Metric
        self.client.log_batch(self.run, metrics=[metric(_name(key), value, now, step) for key, value in values.items()])


def _name(text: str) -> str:
    return FORBIDDEN.sub("_", text)


def _flat(data: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Flattens nested mappings to keys with dots, with their values as text."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, str(data)
