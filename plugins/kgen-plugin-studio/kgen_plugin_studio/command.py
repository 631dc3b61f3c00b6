"""kgen studio: a page in the browser to play with runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Run directories. Default: those in the folder runs, and installed models.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on; another one needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TEXT", help="A secret that a browser must show.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="The folder for the images.")] = Path(
        "studio"
    ),
    keep: Annotated[
        int, typer.Option("--keep", min=1, max=64, help="Number of models that stay loaded; the others are reloaded.")
    ] = 2,
) -> None:
    """Open a page in the browser to play with runs: type a prompt, see images.

    Example: kgen studio runs/quickstart; kgen studio --host 0.0.0.0 --token "$(openssl rand -hex 16)"
    """
    from kgen_plugin_studio.access import check_access
    from kgen_plugin_studio.runs import find_runs

    check_access(host, token)
    found = find_runs(runs or [])
    print("kgen studio: loading ...", flush=True)  # the imports take seconds
    from kgen_plugin_studio.server import private_gradio, serve

    with private_gradio():
        from kgen_plugin_studio.page import build
        from kgen_plugin_studio.studio import Studio

        studio = Studio(found, output, keep, search=not runs)
        serve(build(studio), studio, host, port, token)
