"""What several commands share."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kgen.errors import ConfigError, RunError

if TYPE_CHECKING:
    from kgen.config import RunConfig

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the configuration; repeatable.", show_default=False
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that 'kgen run' made.")]


def say_error(message: str, status: int) -> int:
    """Prints one message on stderr, and gives the exit status back."""
    print(f"error: {message}", file=sys.stderr)
    return status


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file. A file that is no YAML fails before the framework is loaded, which takes seconds."""
    from kgen.cli.backend import load_backend
    from kgen.config import RunConfig
    from kgen.config.source import read_file

    read_file(path)
    load_backend()
    return RunConfig.load(path, overrides)


def picture_file(path: Path) -> None:
    """Raises ConfigError where no PNG can be written."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--output {path}: must end with '.png'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def require_directory(run: Path) -> None:
    """Raises RunError where there is no such directory, naming those that there are."""
    if run.is_dir():
        return
    if run.exists():
        raise RunError(f"{run} is a file: give a run directory that 'kgen run' made")
    others = sorted(str(found.parent) for found in run.parent.glob("*/manifest.json"))
    there = f"there are {', '.join(others)}" if others else "train one with 'kgen run CONFIG'"
    raise RunError(f"there is no run directory {run}: {there}")
