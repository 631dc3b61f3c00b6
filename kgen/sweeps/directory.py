"""The folder of a sweep: its files, its lock, and whether it belongs to a study."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from kgen.config import RunConfig
from kgen.config.changes import changes, training_part
from kgen.config.source import read_file, to_yaml
from kgen.errors import RunError
from kgen.experiments.directory import LOCK, RunDirectory
from kgen.storage.files import TEMPORARY, remove_abandoned, write_text
from kgen.storage.json_file import read_json
from kgen.storage.locks import take_lock
from kgen.sweeps.study import Study

OTHER = "choose another folder with --output"

MARK = "# A sweep of kgen, which goes on with: kgen sweep FOLDER"
"""The first line of the study in the folder."""


class SweepDirectory:
    """The files of a sweep.

    Args:
        path: The folder, which need not exist.

    Attributes:
        study: The study, as YAML.
        base: What determines the weights and the scores of the run that the sweep only evaluates, as JSON.
        runs: The folder of the run directories.
        trials: The folder of the results of each trial.
        failures: The folder of the texts about failures.
        csv, markdown, page: The table for programs, the table for readers, and the page.
        plots: The names of the plots, as JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.study = self.path / "sweep.yaml"
        self.base = self.path / "run.json"
        self.runs = self.path / "runs"
        self.trials = self.path / "trials"
        self.failures = self.path / "failures"
        self.csv = self.path / "sweep.csv"
        self.markdown = self.path / "sweep.md"
        self.page = self.path / "sweep.html"
        self.plots = self.path / "plots.json"

    @property
    def holds_sweep(self) -> bool:
        """Whether a sweep has begun here."""
        try:
            with self.study.open(encoding="utf-8", errors="replace") as file:
                return file.readline().rstrip("\n") == MARK
        except OSError:
            return False

    @contextmanager
    def locked(self, study: Study) -> Iterator[None]:
        """Keeps other processes from working here. Creates the folder, and writes the study if it is new.

        Raises:
            RunError: another process works here, or the folder holds something else, such as another study.
        """
        self._require_usable()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = take_lock(self.path / LOCK)
        except Timeout as error:
            raise RunError(f"another process is working on {self.path}: wait for it, or {OTHER}") from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error.strerror}: {OTHER}") from error
        try:
            remove_abandoned(self.path)
            self._begin(study)
            yield
        finally:
            lock.release()

    def _require_usable(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: {OTHER}")
        try:
            names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}: {OTHER}") from error
        if not self.holds_sweep and not all(name == LOCK or TEMPORARY.fullmatch(name) for name in names):
            raise RunError(f"{self.path} is not empty and holds no sweep: {OTHER}")

    def _begin(self, study: Study) -> None:
        """Compares the study, and the run that it evaluates, with those of an earlier call. Then it writes both."""
        data, run = study.dump(), _state_of(study.base.directory)
        if self.holds_sweep:
            if found := list(differences(read_file(self.study).data, data)):
                listed = "\n  ".join(found)
                raise RunError(f"{self.path} holds a sweep of a different study:\n  {listed}\n{OTHER}")
            if self.base.is_file() and (found := list(map(str, changes(read_json(self.base, dict[str, Any]), run)))):
                changed = "; ".join(found)
                raise RunError(f"{study.base.directory} has changed since this sweep began ({changed}): {OTHER}")
        write_text(self.study, f"{MARK}\n{to_yaml(data)}")
        if run:
            write_text(self.base, json.dumps(run, indent=2) + "\n")

    def forget_failures(self, names: Sequence[str]) -> None:
        """Deletes the texts about failures of an earlier call, because this call tries again."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (self.failures / f"{name}.txt").unlink()

    def failure(self, name: str) -> str | None:
        """The text about the failure of a trial or a training; None if it has not failed."""
        file = self.failures / f"{name}.txt"
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None

    def write_plots(self, plots: Mapping[str, str]) -> None:
        """Writes plots, given by file name, and deletes those of an earlier call that are not among them."""
        older = read_json(self.plots, list[str]) if self.plots.is_file() else []
        for name, svg in plots.items():
            write_text(self.path / name, svg)
        write_text(self.plots, json.dumps(list(plots)) + "\n")
        for name in set(older) - set(plots):
            with contextlib.suppress(FileNotFoundError):
                (self.path / Path(name).name).unlink()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Says how a study differs from an older one, except for plots and for values that were added to an axis."""
    axes = [dict(study.get("over", {})) for study in (old, new)]
    for change in changes({**old, "over": None, "plot": None}, {**new, "over": None, "plot": None}):
        yield str(change)
    if list(axes[0]) != list(axes[1]):
        yield f"over: {', '.join(axes[0])} there, {', '.join(axes[1])} now"
        return
    for name, before in axes[0].items():
        now = axes[1][name]
        if isinstance(before, list):
            kept = isinstance(now, list) and all(value in now for value in before)
        else:
            kept = isinstance(now, dict) and all(label in now and now[label] == before[label] for label in before)
        if not kept:
            yield f"over.{name}: {before!r} there, {now!r} now (values can be added, but not changed)"


def _state_of(run: Path | None) -> dict[str, Any]:
    """What determines the weights of a trained run, and the settings that its trials share; {} if there is no run."""
    if run is None:
        return {}
    directory = RunDirectory(run)
    manifest = directory.read_manifest("step", "data")
    config = RunConfig.load(directory.config).dump()
    return {
        "step": manifest["step"],
        "data": manifest["data"]["fingerprint"],
        "config": training_part(config),
        "sample": config["sample"],
        "evaluate": config["evaluate"],
    }
