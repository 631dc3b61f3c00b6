"""kgen init: write a run file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import WIDE, log, print_table
from kgen.reporting.plain import printable

EXAMPLE = "Example: kgen init quickstart"


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One of kgen's run files. Without it, list them.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write.", show_default="the last part of NAME and .yaml"
        ),
    ] = None,
) -> None:
    """Write one of kgen's run files, as a start for your own, or list them. No file is overwritten."""
    from kgen.config.shipped import copy_run_file, shipped, shipped_file, title

    if name is None:
        if output is not None:
            raise typer.BadParameter("give the NAME of the run file, too", param_hint="-o")
        from rich.table import Table

        table = Table("name", "what it trains", box=None, pad_edge=False)
        for row in shipped():
            table.add_row(row, printable(title(row)))
        print_table(table, WIDE)
        log("\nkgen init NAME writes one of them into this folder; kgen run NAME trains it as it is.")
        return
    path = Path(shipped_file(name).name) if output is None else output
    copy_run_file(name, path)
    study = "studies/" in name
    log(f"{path}: a copy of kgen's {'study' if study else 'run file'} '{name}'. Change it, and train it:\n")
    log(f"  kgen {'sweep' if study else 'run'} {path}")
