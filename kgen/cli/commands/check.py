"""kgen check: find what is wrong with run files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import Settings, load_config, log, say_error, say_fault
from kgen.errors import ComponentError, KgenError

EXAMPLE = "Example: kgen check configs/*.yaml"


def command(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="Run files (YAML).")],
    settings: Settings = None,
) -> None:
    """Read run files, their data and their parts, build every model and try it on two images, without training."""
    failed = [status for config in configs if (status := _check(config, settings or []))]
    raise typer.Exit(max(failed, default=0))


def _check(config: Path, settings: list[str]) -> int:
    """Prints what is wrong with one file, or that nothing is; gives the exit status of that."""
    try:
        checked = load_config(config, settings)
        from kgen.runs.run import check

        check(checked)
    except ComponentError as error:
        return say_fault(error, f"{config}: ")
    except KgenError as error:
        return say_error(str(error) if str(config) in str(error) else f"{config}: {error}", error.exit_code)
    except Exception as error:  # the other files are to be checked, too
        return say_fault(error, f"{config}: ")
    log(f"{config}: ok")
    return 0
