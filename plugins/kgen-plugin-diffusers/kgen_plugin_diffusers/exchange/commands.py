"""kgen export and kgen import: models of diffusers from a run, and a run file for a folder of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a saved pipeline.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
) -> None:
    """Write the parts of a run that the library diffusers can hold, with a model card.

    Example: kgen export runs/sd-vae exported
    """
    from kgen import load_backend

    load_backend()
    from kgen_plugin_diffusers.exchange.export import export as write

    models, reasons = write(run, folder)
    for part, model in models.items():
        print(f"{folder / model.part}: the {part}, as {model.cls}")
    for part, reason in reasons.items():
        print(f"not exported: the {part}: {reason}")
    print(f"{folder / 'README.md'}: the model card; state the license of the weights there")


def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a model or a pipeline of diffusers.")],
) -> None:
    """Print a run file that uses the models of a folder of the library diffusers.

    Example: kgen import sd-vae > sd-vae.yaml
    """
    from kgen import load_backend

    load_backend()
    from kgen_plugin_diffusers.exchange.run_file import run_file

    print(run_file(folder), end="")
