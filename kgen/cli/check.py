"""kgen check: find what is wrong with run files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import load_config, say, say_error
from kgen.errors import KgenError

EXAMPLE = "Example: kgen check configs/*.yaml"


def command(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="Run files (YAML).")],
) -> None:
    """Read run files, their data and their parts, and build every model, without training."""
    status = 0
    for config in configs:
        try:
            checked = load_config(config)
            from kgen.run import check

            check(checked)
        except KgenError as error:
            status = say_error(str(error) if str(config) in str(error) else f"{config}: {error}", error.exit_code)
        else:
            say(f"{config}: ok")
    raise typer.Exit(status)
