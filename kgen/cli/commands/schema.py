"""kgen schema: the JSON schema of run files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.storage.ownership import require_free

EXAMPLE = "Example: kgen schema -o kgen.schema.json"


def command(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The file to write.", show_default="stdout")
    ] = None,
) -> None:
    """Print a JSON schema of run files, for editors, with the options of all installed components."""
    import json

    if output is not None:
        require_free(output)
    from kgen.backend.selection import load_backend
    from kgen.cli.common import output_to_stderr

    with output_to_stderr():
        load_backend()
        from kgen.config.schema import run_file_schema

        text = json.dumps(run_file_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        from kgen.storage.files import write_text

        write_text(output, text)
