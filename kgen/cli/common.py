"""Options and functions that several commands share."""

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

FAULT = 1
"""The exit status of a fault of kgen or of a plugin."""

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kgen.config import RunConfig

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the configuration. The end of a key of 'fit', 'sample' or 'evaluate', such as "
        "'guidance', is enough if no other key ends in it; repeatable.",
        show_default=False,
    ),
]
ChangedData = Annotated[
    bool, typer.Option("--changed-data", help="Continue even if images or captions have changed since the run began.")
]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, which 'kgen run' created, or the name of an installed model."),
]


WIDE = 200
"""Width in columns of a table that is not printed on a terminal."""


def say_error(message: str, status: int) -> int:
    """Prints one message on stderr, and returns the exit status."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return status


def say_fault(error: Exception, place: str = "") -> int:
    """Prints a fault of kgen or of a component, and whose authors can fix it. Returns the exit status 1.

    The component may be the user's own, such as one of a plugin under development. With KGEN_DEBUG=1, it also prints
    the traceback.

    Args:
        error: The exception that is being handled.
        place: Prefix of the message, such as "FILE: ".
    """
    if os.environ.get("KGEN_DEBUG") == "1":
        traceback.print_exc()
    if isinstance(error, ComponentError):
        message, whom = str(error), "its authors, unless it is your own code"
    else:
        message, whom = f"unexpected {reason(error)}", "kgen's authors"
    return say_error(f"{place}{message}\nKGEN_DEBUG=1 shows the traceback. Please report this to {whom}.", FAULT)


def show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Prints a warning in one line, in place of `warnings.showwarning`; names the package if it is not kgen's."""
    parts = Path(filename).parts
    package = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else ""
    source = f" ({category.__name__} of {package})" if package and not package.startswith("kgen") else ""
    print(f"warning: {printable(' '.join(str(message).split()))}{source}", file=sys.stderr)


def log(text: str = "") -> None:
    """Prints a text that may contain untrusted words, such as the name of a file or a plugin's summary."""
    print(printable(text))


def plain_console(width: int | None = None) -> Console:
    """A console that prints text literally: '[bold]' and ':smile:' in a name have no effect.

    Args:
        width: Width in columns if stdout is not a terminal.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else width)


def print_table(table: Table, width: int | None = None) -> None:
    """Prints a table literally. If stdout is not a terminal, no line ends in blanks.

    Args:
        table: The table.
        width: Width in columns if stdout is not a terminal.
    """
    console = plain_console(width)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    print("\n".join(lines if console.is_terminal else [line.rstrip() for line in lines]))


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Redirects stdout to stderr, also for native code, so that only the command's own output reaches stdout."""
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


def run_file(path: Path) -> Path:
    """The path of a run file, or of one that kgen ships. Says so if kgen's takes the place of a file in `configs`."""
    from kgen.config.shipped import FOLDER, find_run_file

    found = find_run_file(path)
    if path.parts[:1] == ("configs",) and found.is_relative_to(FOLDER):
        name = found.relative_to(FOLDER).with_suffix("").as_posix()
        print(f"note: there is no file {path} here: this is '{name}', which kgen ships", file=sys.stderr)
    return found


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file, or one that kgen ships. A file that is not YAML fails before the framework is loaded."""
    from kgen.backend.selection import load_backend
    from kgen.config.short_keys import load_run_file
    from kgen.config.source import read_file

    path = run_file(path)
    if "over" in (data := read_file(path).data) and "run" in data:
        raise ConfigError(f"{path} is a study of several runs: run it with 'kgen sweep {path}'")
    load_backend()
    return load_run_file(path, overrides)


def parse_option(text: str, option: str) -> Any:
    """Parses the value of an option as YAML.

    Args:
        text: The value.
        option: The option in messages, such as "--set fit.steps=3".

    Raises:
        ConfigError: the value is not valid YAML.
    """
    from kgen.config.source import parse_value

    try:
        return parse_value(text)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{option}: {error}") from error


def require_text(prompts: Sequence[str]) -> None:
    """Raises ConfigError for bytes that are not UTF-8, which Python represents as halves of surrogate pairs."""
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(f"prompt {prompt!r} is not UTF-8 text")


def require_single(image: Path) -> None:
    """Raises ConfigError for a grid of images that kgen made, because a single image is needed."""
    from kgen.data import images

    images.require_single(image)


def require_run(run: Path) -> Path:
    """The directory of a run, or of the installed model of that name, whose plugins are installed.

    Raises:
        RunError: there is no such directory; the message names the existing ones, and the installed models.
        PluginError: a plugin that the run needs is missing, or the installed model cannot be used.
    """
    from kgen.plugins.models import find_run, installed_models

    run = find_run(run)
    if run.is_dir():
        from kgen.experiments.directory import RunDirectory

        RunDirectory(run).require_plugins()
        return run
    if run.exists():
        raise RunError(f"{run} is a file: give a run directory that 'kgen run' made")
    others = sorted(str(found.parent) for found in run.parent.glob("*/manifest.json"))
    there = f"existing runs are {', '.join(others)}" if others else "train one with 'kgen run CONFIG'"
    there += f"; installed models are {', '.join(installed_models())}" if installed_models() else ""
    raise RunError(f"there is no run directory {run}: {there}")
