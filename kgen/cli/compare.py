"""kgen compare: put trained runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import require_directory

EXAMPLE = "Example: kgen compare runs/quickstart runs/openmoji-minilm -o encoders"


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of finished runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="What to write into.")] = Path(
        "comparison"
    ),
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="What to draw; repeatable.", show_default="the first run's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 2, help="Of the noise.")] = 0,
) -> None:
    """Write one table and one page on what runs cost, how likely they find pictures, and what they draw."""
    for run in runs:
        require_directory(run)
    from kgen.cli.backend import load_backend

    load_backend()
    from rich.console import Console
    from rich.table import Table

    from kgen.compare import compare

    made = compare(runs, output, prompts=prompts, seed=seed)
    shown = Table("", *(row[0] for row in made.rows))
    for index, key in enumerate(made.head[1:], start=1):
        shown.add_row(key, *(row[index] for row in made.rows))
    Console().print(shown)
    print(f"page:  {made.html}\ntable: {made.markdown}, {made.csv}")
