"""Serves the page, from this machine alone."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from kgen import ConfigError
from kgen_plugin_studio.access import Guard
from kgen_plugin_studio.runs import newest_samples, report_of

if TYPE_CHECKING:
    import gradio as gr

    from kgen_plugin_studio.studio import Studio


@contextmanager
def private_gradio() -> Iterator[None]:
    """Keeps Gradio from reporting to its authors, and keeps uploads in a folder of this process.

    Gradio reads the variables of the environment when it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="kgen-studio-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        yield


def application(page: gr.Blocks, studio: Studio, token: str | None) -> Guard:
    """The ASGI application: the page, the report of a run at `/report?run=NAME`, and its samples at `/samples`.

    Args:
        page: The page.
        studio: The runs, and the folder of the images, which the page may show.
        token: The secret that a browser must show; None: there is none.
    """
    import gradio as gr

    from kgen_plugin_studio.style import CSS, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def served(run: str, find: Callable[[Path], Path | None]) -> FileResponse:
        file = find(studio.runs[run]) if run in studio.runs else None
        if file is None or not file.is_file():
            raise HTTPException(404, f"there is no such file of {run}")
        return FileResponse(file, headers={"cache-control": "no-cache"})

    @app.get("/report")
    def report(run: str) -> FileResponse:
        """The report of a run."""
        return served(run, report_of)

    @app.get("/samples")
    def samples(run: str) -> FileResponse:
        """The newest grid of samples of a run."""
        return served(run, newest_samples)

    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css=CSS,
        allowed_paths=[str(studio.output.resolve())],
        footer_links=[],
        i18n=gr.I18n(en={"common.complete": "complete"}),  # Gradio announces it to screen readers, but has no text
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    return Guard(app, token)


def serve(page: gr.Blocks, studio: Studio, host: str, port: int, token: str | None) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ConfigError: the address cannot be used.
    """
    with _listening(host, port) as listener:
        address, chosen = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"kgen studio: http://{shown}:{chosen}/{f'?token={token}' if token else ''}", flush=True)
        config = uvicorn.Config(application(page, studio, token), log_level="warning", timeout_graceful_shutdown=1)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again if the signal arrives while the loop is busy
            uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}: give another address, or --port 0 for a free port"
        ) from error
