"""The page in a real browser, which may load nothing from other hosts."""

from __future__ import annotations

import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kgen_plugin_studio.server import application, private_gradio
from kgen_plugin_studio.studio import Studio

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


@contextmanager
def served(studio: Studio, token: str | None = None) -> Iterator[str]:
    """Serves a page in a thread of this process; the address."""
    import uvicorn

    with private_gradio():
        from kgen_plugin_studio.page import build

        app = application(build(studio), studio, token)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser without cookies. At the end, no request has gone to another host."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    yield page
    context.close()
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}, requests


def fill(page: Any, ident: str, text: str) -> None:
    page.locator(f"#{ident}").locator("input, textarea").first.fill(text)


def generate(page: Any) -> list[tuple[Path, bytes]]:
    """Clicks the button, and waits for new images: each file, with what the browser gets."""
    page.locator("#generate").click()
    page.locator("#command").wait_for()
    page.locator("#images img").first.wait_for()
    lines = [shlex.split(line) for line in page.locator("#command .cm-line").all_inner_texts()]
    folders = [Path(words[words.index("-o") + 1]) for words in lines]
    sources = page.locator("#images .grid-wrap img").evaluate_all("images => images.map(image => image.src)")
    shown = [page.request.get(source).body() for source in sources]
    written = {file.read_bytes(): file for folder in folders for file in folder.iterdir()}
    assert len(written) == len(shown)
    return [(written[content], content) for content in shown]


def test_a_prompt_becomes_the_images_of_the_command_line(
    page: Any, run: Path, tmp_path: Path, execute: Callable[[str], None]
) -> None:
    with served(Studio({"tiny": run}, tmp_path)) as address:
        page.goto(address)
        fill(page, "option-steps", "2")
        fill(page, "prompt", "red heart")
        ((file, content),) = generate(page)
        assert b"red heart" in content
        file.unlink()
        execute(page.locator("#command .cm-line").inner_text())
        assert file.read_bytes() == content
        page.locator("#images img").first.click()
        page.locator("#facts").get_by_text("red heart").wait_for()

        fill(page, "option-steps", "0")
        page.locator("#generate").click()
        assert "steps: must be greater than 0, got 0" in page.locator("#message .error").inner_text()
        page.locator("#images img").first.wait_for(state="detached")
        page.locator("#facts").wait_for(state="hidden")
