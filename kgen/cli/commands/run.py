"""kgen run: train the pipeline of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kgen.cli.common import ChangedData, Settings, load_config, log, require_run
from kgen.errors import RunError

Stage = Literal["encoder", "decoder"]

EXAMPLE = "Example: kgen run configs/quickstart.yaml --set fit.steps=500 --out runs/short"


def command(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="A run file (YAML), the name of a run file that kgen ships, or a run directory."
        ),
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory.", show_default="runs/NAME")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start again, and move the older run to another directory.")
    ] = False,
    stage: Annotated[
        Stage | None, typer.Option("--stage", help="Stop after the training of this part.", show_default=False)
    ] = None,
    changed_data: ChangedData = False,
) -> None:
    """Train the pipeline that a run file describes, or continue a run that stopped.

    A run can be continued with more steps (--set fit.steps=N), and with other samples and metrics.
    """
    if config.is_dir():
        out = config if out is None else out
        config = config / "config.yaml"
        if not config.is_file():
            raise RunError(f"{config.parent} is a folder, but no run: give a run file or a run directory")
        require_run(config.parent)
    checked = load_config(config, settings or ())
    from kgen.cli.progress import progress_reporter
    from kgen.runs.run import run

    with progress_reporter() as reporter:
        result = run(
            checked,
            out,
            restart,
            stage=stage,
            allow_changed_data=changed_data,
            log=reporter.log,
            on_metrics=reporter.on_metrics,
            on_images=reporter.on_images,
        )
    for split, scores in result.scores.items():
        log(f"{split}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    log(f"grid:   {result.grid}")
    if stage is None:
        log(f"report: {result.report}")
