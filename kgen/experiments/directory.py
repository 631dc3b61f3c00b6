"""The run directory: its files, its lock, and whether it belongs to a configuration."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from kgen.config import RunConfig
from kgen.config.changes import STEPS, Change, changes
from kgen.config.source import read_file
from kgen.config.staged import STAGED, Staged
from kgen.errors import KgenError, PluginError, RunError
from kgen.experiments.manifest import Manifest
from kgen.plugins.discovery import registry
from kgen.plugins.hookspecs import API
from kgen.plugins.migrations import migrate
from kgen.plugins.models import is_installed
from kgen.storage.checkpoints import checkpoint_steps
from kgen.storage.files import TEMPORARY, remove_abandoned, write_text
from kgen.storage.json_file import check_json, read_json
from kgen.storage.locks import release_to_move, take_lock

LOCK = ".lock"

TRACES = (LOCK, "manifest.json", "checkpoints", *STAGED)
"""Files beside `config.yaml`, at least one of which exists if a run has begun."""

OTHER = "choose another directory with --out"


class RunDirectory:
    """The files of a run.

    Args:
        path: The directory, which need not exist.
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
        self.proxy = self.path / "proxy.csv"
        self.checkpoints = self.path / "checkpoints"
        self.assets = self.checkpoints / "assets"
        self.generator_assets = self.checkpoints / "generator"
        self.model = self.path / "model"
        self.lora = self.path / "lora.safetensors"
        self.report = self.path / "report.html"
        self._lock: BaseFileLock = FileLock(self.path / LOCK)  # not held yet

    def stage(self, kind: Staged) -> RunDirectory:
        """The directory of the training of the encoder or the decoder, if it has its own."""
        return RunDirectory(self.path / kind)

    @property
    def encoder_stage(self) -> RunDirectory:
        """The directory of the encoder's training, if there is one."""
        return self.stage("encoder")

    @property
    def decoder_stage(self) -> RunDirectory:
        """The directory of the decoder's training, if there is one."""
        return self.stage("decoder")

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here. A single `config.yaml` may be the user's, and does not count."""
        return self.config.is_file() and any((self.path / name).exists() for name in TRACES)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the run. Creates the folder if needed.

        Raises:
            RunError: another process works here, the path contains something else, or it cannot be written to.
        """
        self._require_usable()
        with self._held():
            yield

    @contextmanager
    def moved_aside(self) -> Iterator[Path]:
        """Renames a locked run to NAME-1, NAME-2, ... If the path is a link, the folder that it leads to is renamed.

        It creates an empty folder in its place, which is also locked, and yields the new name of the run.
        """
        path = self.path.resolve()
        if Path.cwd().is_relative_to(path):
            raise RunError(f"--restart renames {self.path}, but it holds the current folder: leave it first")
        name = _free_name(path)
        release_to_move(self._lock)
        try:
            path.rename(name)
        except OSError as error:
            raise RunError(f"{self.path} cannot be renamed: {error.strerror}: {OTHER}") from error
        with contextlib.ExitStack() as stack:
            if not self._lock.is_locked:
                stack.enter_context(RunDirectory(name)._held())
            stack.enter_context(RunDirectory(self.path)._held())
            yield name

    def prepare(self, config: RunConfig) -> list[Change]:
        """Writes the configuration of the run, in a locked directory.

        Returns:
            The changes since the run began, as in `compare`. If there are any, the run is unfinished again.

        Raises:
            RunError: the directory belongs to a different configuration. The message names the differences.
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
        """The changes since the run began that are allowed (`kgen.config.changes`); an empty list for a new run.

        Raises:
            RunError: there are changes that are not allowed. The message names them.
        """
        changed = self.changes(config)
        if refused := [change for change in changed if not change.allowed]:
            raise RunError(
                f"{self.path} holds a run of a different configuration:\n  "
                + "\n  ".join(map(str, refused))
                + (f"\n{STEPS} can only increase" if any(change.key == STEPS for change in refused) else "")
                + "\nstart again with --restart, which renames the old run, or choose another directory with --out"
            )
        return changed

    def changes(self, config: RunConfig) -> list[Change]:
        """All changes since the run began; an empty list for a new run."""
        return list(changes(self._written(), config.dump())) if self.config.is_file() else []

    def _written(self) -> dict[str, Any]:
        """The configuration in the directory. If one of its plugins is missing, it is not validated."""
        try:
            return RunConfig.load(self.config).dump()
        except KgenError:
            return dict(read_file(self.config).data)

    def record(self, **what: Any) -> None:
        """Records in the manifest that a run continues with a change. The run is then unfinished."""
        manifest = self.read_manifest()
        entry = {"when": time.strftime("%Y-%m-%d %H:%M:%S"), "step": self.newest_step, **what}
        self.update_manifest(changes=[*manifest.get("changes", []), entry], finished=None)

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(checkpoint_steps(self.checkpoints), default=0)

    def _require_usable(self) -> None:
        """Raises RunError unless the path is free, an empty folder, or a run."""
        if self.path.is_symlink() and not self.path.exists():
            raise RunError(f"{self.path} is a link to {self.path.readlink()}, which does not exist: {OTHER}")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: {OTHER}")
        if is_installed(self.path):
            raise RunError(f"{self.path} belongs to an installed model, into which kgen writes nothing: {OTHER}")
        try:
            names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}: {OTHER}") from error
        if not self.holds_run and not all(name == LOCK or TEMPORARY.fullmatch(name) for name in names):
            raise RunError(f"{self.path} is not empty and holds no run: {OTHER}")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Holds the lock, and deletes unfinished files of killed processes."""
        began = self.path.exists()
        self._lock = self._take_lock()
        try:
            remove_abandoned(self.path, deep=True)
            yield
        finally:
            if not began:
                remove_if_empty(self.path, self._lock)
            self._lock.release()

    def _take_lock(self) -> BaseFileLock:
        try:
            while True:
                self.path.resolve().mkdir(parents=True, exist_ok=True)  # a link may lead to a renamed folder
                with contextlib.suppress(FileNotFoundError):  # another process renames the folder
                    return take_lock(self.path / LOCK)
        except Timeout as error:
            raise RunError(
                f"another process is working on {self.path}: wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error.strerror}: {OTHER}") from error

    def read_manifest(self, *need: str) -> dict[str, Any]:
        """Reads the manifest; {} if there is none.

        Args:
            need: Keys that the manifest must have.

        Raises:
            RunError: the manifest is damaged, lacks one of the keys, or was written under a newer contract.
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
        """Whether the model exists, and the training has reached this step, or a callback ended it earlier."""
        manifest = self.read_manifest()
        ended = int(manifest.get("step", 0)) >= steps or manifest.get("stopped_before") == steps
        return ended and self.model.is_dir()

    def require_run(self) -> None:
        """Raises RunError if this is not a run directory."""
        if not self.config.is_file():
            raise RunError(f"{self.path} is not a run directory (it has no config.yaml): give one that 'kgen run' made")
        self.require_plugins()

    def require_plugins(self) -> None:
        """Raises PluginError if a component of the run is missing. The manifest has its distribution."""
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


def remove_if_empty(folder: Path, lock: BaseFileLock) -> None:
    """Removes a folder that contains only the lock, which this process holds."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            release_to_move(lock)
            (folder / LOCK).unlink()
            folder.rmdir()
