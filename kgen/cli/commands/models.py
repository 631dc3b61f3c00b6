"""kgen models: list the installed models, and write the package of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import WIDE, RunArgument, log, print_table, require_run
from kgen.reporting.plain import printable

app = typer.Typer(
    help="List the installed models, and write the package of a trained one.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("list", epilog="Example: kgen models list")
def list_models() -> None:
    """List the installed models, and those that cannot be used. Their names take the place of a run."""
    from rich.table import Table

    from kgen.plugins.models import PREFIX, PUBLISHED, installed_models

    found = installed_models().values()
    if usable := [model for model in found if not model.fault]:
        table = Table("name", "distribution", "size", "folder", box=None, pad_edge=False)
        for model in usable:
            row = (model.name, f"{model.distribution} {model.version}", size(model.bytes), str(model.folder))
            table.add_row(*map(printable, row))
        print_table(table, WIDE)
        log(f"\nAll commands that take a run take these names, too: kgen generate {usable[0].name} PROMPT")
    else:
        names = " or ".join(f"'pip install {PREFIX}{name}'" for name in PUBLISHED)
        log(f"no model is installed: {names} installs one")
    for model in found:
        if model.fault:
            log(f"unusable: {model}: {model.fault}")


@app.command("pack", epilog="Example: kgen models pack runs/quickstart mine --license MIT --half")
def pack(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the model, such as 'mine'.")],
    license: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="SPDX",
            help="The license of the weights, such as CC-BY-SA-4.0. Mind that of the training images.",
            show_default=False,
        ),
    ],
    half: Annotated[
        bool, typer.Option("--half", help="Round the weights to 16 bits, which halves the size of the package.")
    ] = False,
) -> None:
    """Write the package of a trained model, ./kgen-model-NAME, with its configuration, its log and its scores.

    Whoever installs the package generates images with 'kgen generate NAME PROMPT'.
    """
    from kgen.authoring import pack_model

    package = pack_model(require_run(run), name, license, Path(), half=half)
    total = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    log(f"{package}: the model of {run}, {size(total)}. Complete its README.md, install it, and try it:\n")
    log(f"  pip install ./{package}")
    log(f"  kgen generate {name} PROMPT")


def size(count: int) -> str:
    """A number of bytes: "6.4 MB"."""
    return f"{count / 1e6:.1f} MB"
