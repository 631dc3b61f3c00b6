"""kgen compare: put trained runs side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import log, print_table, require_run, require_text
from kgen.errors import ConfigError
from kgen.reporting.plain import printable

EXAMPLE = "Example: kgen compare runs/quickstart runs/openmoji-minilm -o encoders"


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Directories of finished runs, or names of installed models.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="The folder to write.")] = Path(
        "comparison"
    ),
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="A prompt; repeatable.", show_default="prompts of the first run"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 2, help="The seed of the noise.")] = 0,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="N,N,...",
            help="Numbers of sampling steps to score, for a plot of quality over the time per image.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare runs in one table and one page: their costs, their likelihoods, their scores and their images."""
    numbers = () if steps is None else _numbers(steps)
    require_text(prompts or ())
    runs = [require_run(run) for run in runs]
    from kgen.backend.selection import load_backend

    load_backend()
    from rich.table import Table

    from kgen.comparison.compare import compare

    made = compare(runs, output, prompts=prompts, seed=seed, steps=numbers, log=log)
    shown = Table("", *(printable(row[0]) for row in made.rows))
    for index, key in enumerate(made.head[1:], start=1):
        shown.add_row(printable(key), *(printable(row[index]) for row in made.rows))
    print_table(shown)
    for note in made.notes:
        log(note)
    log(f"page:  {made.html}\ntable: {made.markdown}, {made.csv}")
    if made.steps is not None:
        log(f"steps: {made.steps}")


def _numbers(text: str) -> tuple[int, ...]:
    """Parses the value of `--steps`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,5}", part) for part in parts):
        raise ConfigError(f"--steps {text}: must be numbers of steps from 1 on, with commas, such as 1,2,4,8,16,32")
    return tuple(map(int, parts))
