"""kgen evaluate: score a trained pipeline."""

from __future__ import annotations

from kgen.cli.common import RunArgument, plain_console, printable, require_directory

EXAMPLE = "Example: kgen evaluate runs/quickstart"


def command(run: RunArgument) -> None:
    """Draw the prompts of a run's dataset anew, and score the pictures by the metrics of its configuration."""
    require_directory(run)
    from kgen.cli.backend import load_backend

    load_backend()
    from rich.table import Table

    from kgen.run import evaluate

    scores = evaluate(run)
    table = Table("metric", *scores)
    for name in dict.fromkeys(name for values in scores.values() for name in values):
        table.add_row(printable(name), *(f"{values[name]:.4g}" if name in values else "" for values in scores.values()))
    if table.row_count:
        plain_console().print(table)
    else:
        print("nothing to score: the configuration names no metrics under 'evaluate'")
