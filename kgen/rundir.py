"""A run's directory: where things lie in it, who may write to it, and whether it belongs to a configuration."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.errors import RunError
from kgen.files import remove_abandoned, write_text
from kgen.json_file import read_json
from kgen.manifest_file import Manifest
from kgen.plugins import CORE


class RunDirectory:
    """Names of everything that a run leaves behind.

    Args:
        path: The directory; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.csv"
        self.samples = self.path / "samples"
        self.final_grid = self.samples / "final.png"
        self.evaluation = self.path / "evaluation.json"
        self.checkpoints = self.path / "checkpoints"
        self.assets = self.checkpoints / "assets"
        self.model = self.path / "model"
        self.report = self.path / "report.html"

    @property
    def decoder_stage(self) -> RunDirectory:
        """Where the decoder's own training lies, if it has one."""
        return RunDirectory(self.path / "decoder")

    def prepare(self, config: RunConfig, restart: bool) -> Path | None:
        """Makes the directory ready for a run of this configuration, new or to be resumed.

        Returns:
            Where an older run was moved to.

        Args:
            restart: Move an older run aside (to NAME-1, NAME-2, ...) instead of resuming it.

        Raises:
            RunError: it belongs to a different configuration (what differs is named), or holds something else.
        """
        older = self._move_aside() if restart and self.path.exists() else None
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose another directory with --out")
        if self.config.is_file():
            self._compare(config)
            return None
        if self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no run: choose another directory with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, config.to_yaml())
        return older

    def _move_aside(self) -> Path:
        name = _free_name(self.path)
        self.path.rename(name)
        return name

    def _compare(self, config: RunConfig) -> None:
        if changed := list(differences(RunConfig.load(self.config).dump(), config.dump())):
            raise RunError(
                f"{self.path} holds a run of a different configuration:\n  "
                + "\n  ".join(changed)
                + "\nstart again with --restart (the old run is moved aside), or choose another directory with --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process from writing to the same run."""
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"another process is working on {self.path}: wait for it, or choose another --out"
                ) from error
            remove_abandoned(self.path, deep=True)
            yield

    def read_manifest(self, *need: str) -> dict[str, Any]:
        """The manifest; {} where there is none yet.

        Args:
            need: Keys without which it is of no use.

        Raises:
            RunError: it is damaged, or lacks one of these.
        """
        found = dict(read_json(self.manifest, Manifest)) if self.manifest.is_file() else {}
        if missing := [key for key in need if key not in found]:
            raise RunError(f"{self.manifest} is damaged or of a training that has not ended: it lacks '{missing[0]}'")
        return found

    def read_scores(self) -> dict[str, dict[str, float]]:
        """What `evaluation.json` holds: by split and metric. Raises RunError where it is missing or damaged."""
        return read_json(self.evaluation, dict[str, dict[str, float]])

    def update_manifest(self, **entries: Any) -> None:
        write_text(self.manifest, json.dumps({**self.read_manifest(), **entries}, indent=2, ensure_ascii=False) + "\n")

    def require_run(self) -> None:
        """Raises RunError where this is no run directory."""
        if not self.config.is_file():
            raise RunError(f"{self.path} is no run directory (it has no config.yaml): give one that 'kgen run' made")


def software(backend: str) -> dict[str, str]:
    """Versions of what a run was made with."""
    packages = [CORE, "keras", "numpy", "grain", backend]
    return {"python": platform.python_version(), "backend": backend} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """What differs between two nested mappings, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield f"{key}: {old!r} there, {new!r} now"
