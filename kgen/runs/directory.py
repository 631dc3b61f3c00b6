"""A run's directory: where things lie in it, who may write to it, and whether it belongs to a configuration."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from kgen.config import RunConfig
from kgen.config.changes import Change, changes
from kgen.config.source import read_file
from kgen.errors import KgenError, PluginError, RunError
from kgen.plugins.discovery import registry
from kgen.plugins.hookspecs import API
from kgen.plugins.migrations import migrate
from kgen.runs.manifest import Manifest
from kgen.storage.checkpoints import checkpoint_steps
from kgen.storage.files import TEMPORARY, remove_abandoned, write_text
from kgen.storage.json_file import check_json, read_json
from kgen.storage.locks import release_to_move, take_lock

LOCK = ".lock"

TRACES = (LOCK, "manifest.json", "checkpoints", "decoder")
"""What lies beside `config.yaml` where a run has begun: one of them at least."""

OTHER = "choose another directory with --out"


class RunDirectory:
    """Names of everything that a run leaves behind.

    Args:
        path: The directory; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.inventory = self.path / "data.jsonl.gz"
        self.metrics = self.path / "metrics.csv"
        self.samples = self.path / "samples"
        self.final_grid = self.samples / "final.png"
        self.evaluation = self.path / "evaluation.json"
        self.checkpoints = self.path / "checkpoints"
        self.assets = self.checkpoints / "assets"
        self.model = self.path / "model"
        self.report = self.path / "report.html"
        self._lock: BaseFileLock = FileLock(self.path / LOCK)  # not held yet

    @property
    def decoder_stage(self) -> RunDirectory:
        """Where the decoder's own training lies, if it has one."""
        return RunDirectory(self.path / "decoder")

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here: a configuration alone, such as one's own `config.yaml`, is none."""
        return self.config.is_file() and any((self.path / name).exists() for name in TRACES)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the run; makes the folder where there is none.

        Raises:
            RunError: another process works here; the path holds something that is no run; it cannot be written to.
        """
        self._require_usable()
        with self._held():
            yield

    @contextmanager
    def moved_aside(self) -> Iterator[Path]:
        """Renames a locked run to NAME-1, NAME-2, ... (where the path is a link, the folder that it leads to).

        Makes an empty folder in its place, which is locked, too; gives the new name of the run.
        """
        path = self.path.resolve()
        if Path.cwd().is_relative_to(path):
            raise RunError(f"--restart moves {self.path} aside, but it holds the current folder: leave it first")
        name = _free_name(path)
        release_to_move(self._lock)
        try:
            path.rename(name)
        except OSError as error:
            raise RunError(f"{self.path} cannot be moved aside: {error.strerror}: {OTHER}") from error
        with contextlib.ExitStack() as stack:
            if not self._lock.is_locked:
                stack.enter_context(RunDirectory(name)._held())
            stack.enter_context(RunDirectory(self.path)._held())
            yield name

    def prepare(self, config: RunConfig) -> list[Change]:
        """Writes the configuration down, in a locked directory.

        Returns:
            What has changed since the run began, as `compare` says; the run is then unfinished again.

        Raises:
            RunError: the directory belongs to a different configuration; what differs is named.
        """
        if not self.config.is_file():
            write_text(self.config, config.to_yaml())
            return []
        changed = self.compare(config)
        if changed:
            self.record(changed=list(map(str, changed)))
            write_text(self.config, config.to_yaml())
        return changed

    def compare(self, config: RunConfig) -> list[Change]:
        """What has changed since the run began, and may change (`kgen.config.changes`). Nothing, where it begins now.

        Raises:
            RunError: something else has changed, too; what differs is named.
        """
        changed = self.changes(config)
        if refused := [change for change in changed if not change.allowed]:
            raise RunError(
                f"{self.path} holds a run of a different configuration:\n  "
                + "\n  ".join(map(str, refused))
                + "\nstart again with --restart (the old run is moved aside), or choose another directory with --out"
            )
        return changed

    def changes(self, config: RunConfig) -> list[Change]:
        """What differs from the configuration with which the run began. Nothing, where it begins now."""
        return list(changes(self._written(), config.dump())) if self.config.is_file() else []

    def _written(self) -> dict[str, Any]:
        """The configuration that lies there: as it was written, where a plugin that it names is gone."""
        try:
            return RunConfig.load(self.config).dump()
        except KgenError:
            return dict(read_file(self.config).data)

    def record(self, **what: Any) -> None:
        """Notes in the manifest that a run goes on with something changed; it is then unfinished."""
        manifest = self.read_manifest()
        entry = {"when": time.strftime("%Y-%m-%d %H:%M:%S"), "step": self.newest_step, **what}
        self.update_manifest(changes=[*manifest.get("changes", []), entry], finished=None)

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint; 0 where there is none."""
        return max(checkpoint_steps(self.checkpoints), default=0)

    def _require_usable(self) -> None:
        """Raises RunError where the path is neither free, nor empty, nor a run."""
        if self.path.is_symlink() and not self.path.exists():
            raise RunError(f"{self.path} is a link to {self.path.readlink()}, which does not exist: {OTHER}")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: {OTHER}")
        try:
            names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}: {OTHER}") from error
        if not self.holds_run and not all(name == LOCK or TEMPORARY.fullmatch(name) for name in names):
            raise RunError(f"{self.path} is not empty and holds no run: {OTHER}")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Holds the lock, and removes what killed processes left."""
        began = self.path.exists()
        self._lock = self._take_lock()
        try:
            remove_abandoned(self.path, deep=True)
            yield
        finally:
            if not began:
                self._remove_if_empty()
            self._lock.release()

    def _take_lock(self) -> BaseFileLock:
        try:
            while True:
                self.path.resolve().mkdir(parents=True, exist_ok=True)  # a link may lead to what was moved aside
                with contextlib.suppress(FileNotFoundError):  # another process moves the folder aside
                    return take_lock(self.path / LOCK)
        except Timeout as error:
            raise RunError(
                f"another process is working on {self.path}: wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error.strerror}: {OTHER}") from error

    def _remove_if_empty(self) -> None:
        """Removes a folder in which nothing but the lock was made; this process holds that."""
        with contextlib.suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [LOCK]:
                release_to_move(self._lock)
                (self.path / LOCK).unlink()
                self.path.rmdir()

    def read_manifest(self, *need: str) -> dict[str, Any]:
        """The manifest; {} where there is none yet.

        Args:
            need: Keys without which it is of no use.

        Raises:
            RunError: it is damaged, lacks one of these, or was written under a newer contract.
        """
        found: dict[str, Any] = {}
        if self.manifest.is_file():
            saved = migrate("manifest", read_json(self.manifest, dict[str, Any]), self.manifest)
            found = dict(check_json(self.manifest, json.dumps(saved), Manifest))
        if missing := [key for key in need if key not in found]:
            raise RunError(f"{self.manifest} is damaged or of a training that has not ended: it lacks '{missing[0]}'")
        return found

    def update_manifest(self, **entries: Any) -> None:
        """Sets keys of the manifest; None removes one."""
        found = {"api": API, **self.read_manifest(), **entries}
        found = {key: value for key, value in found.items() if value is not None}
        write_text(self.manifest, json.dumps(found, indent=2, ensure_ascii=False) + "\n")

    def is_trained(self, steps: int) -> bool:
        """Whether the training has come to this step, and its model is there."""
        return int(self.read_manifest().get("step", 0)) >= steps and self.model.is_dir()

    def write_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Writes `evaluation.json`: numbers by split and name. What is not finite becomes null, as in JSON it must."""
        plain = {
            split: {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            for split, numbers in scores.items()
        }
        write_text(self.evaluation, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_scores(self) -> dict[str, dict[str, float]]:
        """What `write_scores` wrote, NaN for null; {} where there are none yet. Raises RunError where it is damaged."""
        if not self.evaluation.is_file():
            return {}
        found = read_json(self.evaluation, dict[str, dict[str, float | None]])
        return {
            split: {name: math.nan if value is None else value for name, value in numbers.items()}
            for split, numbers in found.items()
        }

    def require_run(self) -> None:
        """Raises RunError if this is not a run directory."""
        if not self.config.is_file():
            raise RunError(f"{self.path} is not a run directory (it has no config.yaml): give one that 'kgen run' made")
        self.require_plugins()

    def require_plugins(self) -> None:
        """Raises PluginError where a component of the run is missing: the manifest knows where it came from."""
        manifest, found = self.read_manifest(), registry()
        parts = list(manifest.get("components", {}).items())
        parts += [(kind, part) for kind in ("metric", "encoder") for part in manifest.get(f"{kind}s", [])]
        for kind, part in parts:
            if (kind, part["id"]) in found.components:
                continue
            origin = f"{part['distribution']} {part['version']}"
            namespace = part["id"].partition("/")[0]
            broken = next((why for source, why in found.broken.items() if source.namespace == namespace), None)
            cure = f"pip install {part['distribution']}=={part['version']}"
            why = f"which is not installed: {cure}" if broken is None else f"which could not be loaded: {broken}"
            raise PluginError(f"{self.path} needs the {kind} '{part['id']}' of {origin}, {why}")


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
