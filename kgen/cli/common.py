"""What several commands share."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.errors import ComponentError, ConfigError, RunError
from kgen.plugins.faults import reason
from kgen.reporting.plain import printable
from kgen.storage.ownership import IMAGES, require_free

FAULT = 1
"""The exit status of a fault of kgen or of a plugin."""

if TYPE_CHECKING:
    from rich.console import Console

    from kgen.config import RunConfig

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the configuration; repeatable.", show_default=False
    ),
]
ChangedData = Annotated[
    bool, typer.Option("--changed-data", help="Go on although images or captions have changed since the run began.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that 'kgen run' made.")]


WIDE = 200
"""Columns of a table that is not printed on a terminal."""


def say_error(message: str, status: int) -> int:
    """Prints one message on stderr, and gives the exit status back."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return status


def say_fault(error: Exception, place: str = "") -> int:
    """Prints what the user cannot mend, and who can; with KGEN_DEBUG=1 also the traceback. Gives the exit status 1.

    Args:
        error: The exception that is being handled.
        place: What stands before the message: "FILE: ".
    """
    if os.environ.get("KGEN_DEBUG") == "1":
        traceback.print_exc()
    if isinstance(error, ComponentError):
        told, whom = str(error), "the plugin's authors"
    else:
        told, whom = f"unexpected {reason(error)}", "kgen's authors"
    return say_error(f"{place}{told}\nPlease report this to {whom}, with the traceback that KGEN_DEBUG=1 shows.", FAULT)


def show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Prints a warning in one line, as `warnings.showwarning`; that of another package with the package's name."""
    parts = Path(filename).parts
    package = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else ""
    source = f" ({category.__name__} of {package})" if package and not package.startswith("kgen") else ""
    print(f"warning: {printable(' '.join(str(message).split()))}{source}", file=sys.stderr)


def log(text: str = "") -> None:
    """Prints a text that may hold words of others, such as the name of a file or a plugin's summary."""
    print(printable(text))


def plain_console(width: int | None = None) -> Console:
    """A console that prints words as they are: '[bold]' and ':smile:' in a name mean nothing.

    Args:
        width: Columns where it is no terminal.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else width)


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Sends what is written to stdout, also by native code, to stderr: what a command prints itself stays clean."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file, or one that kgen ships; what is no YAML fails before the framework is loaded."""
    from kgen.cli.backend import load_backend
    from kgen.config import RunConfig
    from kgen.config.shipped import find_run_file
    from kgen.config.source import read_file

    path = find_run_file(path)
    read_file(path)
    load_backend()
    return RunConfig.load(path, overrides)


def image_file(path: Path) -> None:
    """Raises ConfigError where no PNG can be written, or a file is in the way."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--output {path}: must end with '.png'")
    require_free(path)
    from kgen.storage.files import writable_folder

    writable_folder(path.parent)


def require_text(prompts: Sequence[str]) -> None:
    """Raises ConfigError for bytes that are not UTF-8, which Python passes on as halves of surrogate pairs."""
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(f"prompt {prompt!r} is not UTF-8 text")


def require_single(image: Path) -> None:
    """Raises ConfigError for a grid of images that kgen drew, as a single image is wanted."""
    from PIL import Image

    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(image) as opened:
        count = getattr(opened, "text", {}).get(IMAGES, "1")
        if count != "1":
            raise ConfigError(
                f"{image}: is a grid of {count} images: give one of them, which 'kgen generate -o FOLDER/' writes"
            )


def require_directory(run: Path) -> None:
    """Raises RunError where there is no such directory, naming those that there are; PluginError where a plugin that
    the run needs is missing.
    """
    if run.is_dir():
        from kgen.runs.directory import RunDirectory

        RunDirectory(run).require_plugins()
        return
    if run.exists():
        raise RunError(f"{run} is a file: give a run directory that 'kgen run' made")
    others = sorted(str(found.parent) for found in run.parent.glob("*/manifest.json"))
    there = f"there are {', '.join(others)}" if others else "train one with 'kgen run CONFIG'"
    raise RunError(f"there is no run directory {run}: {there}")
