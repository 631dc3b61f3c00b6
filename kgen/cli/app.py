"""The commands of `kgen`, and the handling of errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from kgen.cli.commands import (
    check,
    compare,
    data,
    evaluate,
    generate,
    models,
    plugins,
    reconstruct,
    run,
    schema,
    sweep,
    upscale,
)
from kgen.cli.commands.setup import doctor, init
from kgen.cli.commands.stored import average, weights
from kgen.cli.common import FAULT, say_error, say_fault, show_warning
from kgen.cli.plugin_commands import CommandsWithPlugins
from kgen.errors import ComponentError, KgenError, RunInterruptedError
from kgen.plugins.faults import component_errors
from kgen.reporting.plain import printable

USER_ERROR = 2

app = typer.Typer(
    cls=CommandsWithPlugins,
    help="Assemble, train and compare text-to-image models from plugins.",
    epilog="Example: kgen run configs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    *(init, run, generate, reconstruct, upscale, evaluate, compare, sweep, average, weights, check, schema, doctor),
):
    app.command(_module.__name__.rpartition(".")[2], epilog=_module.EXAMPLE)(_module.command)
app.add_typer(data.app, name="data")
app.add_typer(plugins.app, name="plugins")
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from kgen.plugins.discovery import CORE

        typer.echo(f"kgen {version(CORE)}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line.

    The exit status is 0 for success, 1 for a fault of kgen or of a plugin, 2 for an error that the user can fix, and
    130 for Ctrl-C.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names may be any bytes
    if logging.lastResort is not None:  # prints the warnings of loggers
        logging.lastResort.setFormatter(_Printable())
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        status = _guarded()
    sys.exit(status)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _open_streams() -> None:
    """Opens /dev/null in place of a closed stdin, stdout or stderr (`>&-`), so that no file gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _guarded() -> int:
    try:
        return _run()
    except RunInterruptedError as stop:
        print(printable(str(stop)), file=sys.stderr)
        return stop.exit_code
    except ComponentError as error:
        return say_fault(error)
    except KgenError as error:
        return say_error(str(error), error.exit_code)
    except KeyboardInterrupt:
        return RunInterruptedError.exit_code
    except BrokenPipeError:
        _drop_output()
        return FAULT
    except OSError as error:
        _drop_output()
        place = f"{error.filename}: " if error.filename else ""
        return say_error(f"{place}{error.strerror or error}", USER_ERROR)
    except Exception as error:  # any other exception is a fault of kgen
        return say_fault(error)


def _run() -> int:
    try:
        with component_errors():  # lets pass the SystemExit of typer, which comes from no component
            app(prog_name="kgen")
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else 0
    return 0


def _drop_output() -> None:
    """Redirects a broken stdout to /dev/null, so that Python does not fail again when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
