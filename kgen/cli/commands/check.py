"""kgen check: find errors in run files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import Settings, load_config, log, say_error, say_fault
from kgen.errors import ComponentError, KgenError

EXAMPLE = "Example: kgen check configs/*.yaml"


def command(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="The run files (YAML) to check.")],
    settings: Settings = None,
) -> None:
    """Find errors in run files without training: read the data, build each model, and try it on two images."""
    failed = [status for config in configs if (status := _check(config, settings or []))]
    raise typer.Exit(max(failed, default=0))


def _check(config: Path, settings: list[str]) -> int:
    """Prints the errors of one run file, or "ok"; returns the exit status."""
    try:
        checked = load_config(config, settings)
        from kgen.runs.run import check

        check(checked)
    except ComponentError as error:
        return say_fault(error, f"{config}: ")
    except KgenError as error:
        return say_error(str(error) if str(config) in str(error) else f"{config}: {error}", error.exit_code)
    except Exception as error:  # continues with the other files
        return say_fault(error, f"{config}: ")
    log(f"{config}: ok")
    return 0
