"""kgen doctor: report versions, devices, backends and plugins, and what is wrong."""

from __future__ import annotations

import typer

from kgen.cli.common import FAULT, log

EXAMPLE = "Example: kgen doctor"


def command(context: typer.Context) -> None:
    """Report versions, devices, backends and plugins, and what is wrong, for a bug report.

    It tries each installed backend, and imports all components. The status is 1 if something is wrong.
    """
    from kgen.cli.diagnosis import diagnose

    report = diagnose(getattr(context.find_root().command, "commands", {}))
    log(str(report))
    if report.problems:
        raise typer.Exit(FAULT)
