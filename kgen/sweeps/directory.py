"""The folder of a sweep: its files, its lock, and whether it belongs to a study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from kgen.config import RunConfig
from kgen.config.changes import changes, training_part
from kgen.config.source import read_file, to_yaml
from kgen.errors import RunError
from kgen.experiments.directory import LOCK, RunDirectory, remove_if_empty
from kgen.storage.files import TEMPORARY, remove_abandoned, write_text
from kgen.storage.json_file import read_json
from kgen.storage.locks import take_lock
from kgen.studies.axes import text_of
from kgen.studies.study import Study

OTHER = "choose another folder with --output"

MARK = "# A sweep of kgen, which goes on with: kgen sweep FOLDER"
"""The first line of the study in the folder."""


PLOT = re.compile(r"sweep(-[a-z0-9-]+)?\.svg")
"""The form of the names of plots."""


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
        plots: The names of the plots that kgen wrote, with the hashes of their contents, as JSON.
        removed: The values that the study had at an earlier call, and has no longer, as JSON.
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
        self.removed = self.path / "removed.json"

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
        """Keeps other processes from working here. Creates the folder, which is deleted if it stays empty.

        Raises:
            RunError: another process works here, or the folder holds something else, such as another study.
        """
        self._require_usable()
        began = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = take_lock(self.path / LOCK)
        except Timeout as error:
            raise RunError(f"another process is working on {self.path}: wait for it, or {OTHER}") from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error.strerror}: {OTHER}") from error
        try:
            remove_abandoned(self.path)
            self._require_same(study)
            yield
        finally:
            if not began:
                remove_if_empty(self.path, lock)
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

    def _require_same(self, study: Study) -> None:
        """Compares the study, and the run that it evaluates, with those of an earlier call."""
        if not self.holds_sweep:
            return
        if found := list(differences(self._earlier(), study.dump())):
            listed = "\n  ".join(found)
            raise RunError(f"{self.path} holds a sweep of a different study:\n  {listed}\n{OTHER}")
        run = _state_of(study.base.directory)
        if self.base.is_file() and (found := list(map(str, changes(_read(self.base), run)))):
            changed = "; ".join(found)
            raise RunError(f"{study.base.directory} has changed since this sweep began ({changed}): {OTHER}")

    def _earlier(self) -> dict[str, Any]:
        """The study of the earlier calls, with all values that its axes have ever had."""
        data = read_file(self.study).data
        removed = _read(self.removed) if self.removed.is_file() else {}
        over = data.get("over")
        own = over if isinstance(over, dict) else {}
        return {**data, "over": {name: _united(values, removed.get(name)) for name, values in own.items()}}

    def write_study(self, study: Study) -> None:
        """Writes the study, and the values that its axes have no longer."""
        data, run = study.dump(), _state_of(study.base.directory)
        over = self._earlier()["over"] if self.holds_sweep else {}
        removed: dict[str, Any] = {name: _without(values, data["over"][name]) for name, values in over.items()}
        if removed := {name: values for name, values in removed.items() if values}:
            write_text(self.removed, json.dumps(removed, indent=2, ensure_ascii=False) + "\n")
        else:
            self.removed.unlink(missing_ok=True)
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
        """Writes plots, given by file name, and deletes those of an earlier call that are not among them.

        A file is only deleted if it is exactly what an earlier call wrote.
        """
        earlier = self._earlier_plots()
        for name, svg in plots.items():
            write_text(self.path / name, svg)
        write_text(self.plots, json.dumps({name: _hash(svg.encode()) for name, svg in plots.items()}, indent=2) + "\n")
        for name in earlier.keys() - plots.keys():
            file = self.path / name
            if PLOT.fullmatch(name) and file.is_file() and _hash(file.read_bytes()) == earlier[name]:
                file.unlink()

    def _earlier_plots(self) -> dict[str, str]:
        """The hashes of the plots of an earlier call, by name; {} if they are not known."""
        try:
            return read_json(self.plots, dict[str, str])
        except RunError:  # missing, damaged, or of an earlier kgen: then no plot is deleted
            return {}


def _read(path: Path) -> dict[str, Any]:
    """Reads one of the files of a sweep. Raises RunError with advice if it is damaged."""
    try:
        return read_json(path, dict[str, Any])
    except RunError as error:
        raise RunError(f"{error}. Put a copy of it back, or {OTHER}") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Says how a study differs from an older one, except for plots, and for values that were added or removed.

    A value whose name the older study has must be the same, because its results have that name.
    """
    axes = [dict(study.get("over", {})) for study in (old, new)]
    for change in changes({**old, "over": None, "plot": None}, {**new, "over": None, "plot": None}):
        yield str(change)
    if list(axes[0]) != list(axes[1]):
        yield f"over: {', '.join(axes[0])} there, {', '.join(axes[1])} now"
        return
    for name, before in axes[0].items():
        if type(before) is not type(axes[1][name]):
            yield f"over.{name}: {before!r} there, {axes[1][name]!r} now"
            continue
        values, now = _by_label(before), _by_label(axes[1][name])
        for label in values.keys() & now.keys():
            if values[label] != now[label]:
                yield f"over.{name}: {label} was {values[label]!r} there, and is {now[label]!r} now: rename it"


def _by_label(values: list[Any] | dict[str, Any]) -> dict[str, Any]:
    """The values of an axis by their labels."""
    return dict(values) if isinstance(values, dict) else {text_of(value): value for value in values}


def _united(values: Any, others: Any) -> Any:
    """The values of an axis, with the values that it had earlier."""
    if others is None or type(values) is not type(others):
        return values
    if isinstance(values, dict):
        return {**others, **values}
    return [*values, *(value for value in others if value not in values)]


def _without(values: Any, others: Any) -> Any:
    """The values of an axis that another one does not have."""
    known = _by_label(others)
    if isinstance(values, dict):
        return {label: value for label, value in values.items() if label not in known}
    return [value for value in values if text_of(value) not in known]


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
