"""kgen evaluate: score a trained pipeline."""

from __future__ import annotations

from typing import Annotated

import typer

from kgen.cli.common import ChangedData, RunArgument, log, plain_console, require_directory
from kgen.reporting.plain import printable

EXAMPLE = "Example: kgen evaluate runs/quickstart --set evaluate.samples_per_prompt=4"


def command(
    run: RunArgument,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of 'evaluate' or 'sample' in the run's configuration; repeatable.",
            show_default=False,
        ),
    ] = None,
    changed_data: ChangedData = False,
) -> None:
    """Generate images from the prompts of a run's dataset, score them with the run's metrics, and update the report."""
    require_directory(run)
    from kgen.cli.backend import load_backend

    load_backend()
    from rich.table import Table

    from kgen.runs.evaluation import evaluate

    scores = evaluate(run, settings or (), allow_changed_data=changed_data, log=log)
    table = Table("metric", *map(printable, scores))
    for name in dict.fromkeys(name for values in scores.values() for name in values):
        table.add_row(printable(name), *(f"{values[name]:.4g}" if name in values else "" for values in scores.values()))
    if table.row_count:
        plain_console().print(table)
    else:
        print("nothing to score: the configuration names no metrics under 'evaluate'")
