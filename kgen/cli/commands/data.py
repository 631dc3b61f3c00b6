"""kgen data: check the data of run files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import Settings, load_config, log

app = typer.Typer(help="Check the data of run files.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("check", epilog="Example: kgen data check my-run.yaml")
def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run file (YAML).")],
    settings: Settings = None,
) -> None:
    """Read every image that a run file trains on, and list the damaged ones. Later runs do not check them again."""
    checked = load_config(config, settings or [])
    from kgen.experiments.inputs import read_dataset

    datasets = {"data": checked.data, "encoder.data": checked.encoder.data, "decoder.data": checked.decoder.data}
    for owner, component in datasets.items():
        if component is None:
            continue
        dataset = read_dataset(component)
        for line in dataset.notes():
            log(line)
        problems = dataset.check()
        for problem in problems:
            log(f"skipped {problem.where}: {problem.what}")
        skipped = "1 is skipped" if len(problems) == 1 else f"{len(problems):,} are skipped"
        log(f"{owner}: every image was read, and {skipped if problems else 'all are good'}")
