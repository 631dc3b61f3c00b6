"""kgen average: make a model of averaged weights after the training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, log, require_run

EXAMPLE = "Example: kgen average runs/emoji --std 0.15"


def command(
    run: RunArgument,
    std: Annotated[
        float,
        typer.Option(
            "--std",
            metavar="WIDTH",
            help="The width of the average: its standard deviation over the steps, as a share of the training.",
        ),
    ],
    step: Annotated[
        int | None,
        typer.Option("--step", min=1, help="The step up to which weights are averaged.", show_default="the last one"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The folder of the model.", show_default="RUN/averages/WIDTH"),
    ] = None,
) -> None:
    """Make a model whose weights are an average of another width, as if the training had kept it.

    The run must have kept snapshots of two averages: 'fit.ema: {std: [0.05, 0.1]}'. 'kgen generate' reads the model.
    """
    run = require_run(run)
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.parts.saving import save
    from kgen.training.snapshots import average_after

    pipeline, error = average_after(run, std, step)
    name = f"{std:g}" if step is None else f"{std:g}-step-{step}"
    folder = run / "averages" / name if out is None else out
    save(pipeline, folder)
    log(
        f"{folder}: the shares of the steps differ by {error:.2%} from those of an average that is kept in the training"
    )
