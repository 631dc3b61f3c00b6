"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kgen_plugin_studio.server import application, private_gradio
from kgen_plugin_studio.studio import Studio

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.portable,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page, which a thread of this process serves."""
    import uvicorn

    folder = tmp_path_factory.mktemp("studio")
    with private_gradio():
        from kgen_plugin_studio.page import build

        studio = Studio({"tiny": run, "again": run}, folder)
        app = application(build(studio), studio, None)
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


def test_a_prompt_becomes_the_images_of_the_command_line(
    address: str, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = browser.new_page()
    page.set_default_timeout(30_000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.locator("#option-steps input, #option-steps textarea").fill("2")
    page.locator("#prompt textarea").fill("red heart")
    page.locator("#generate").click()
    page.locator("#images img").first.wait_for()
    (command,) = re.findall(r"kgen generate .*", page.locator("#command").inner_text())
    source = page.locator("#images img").first.get_attribute("src")
    downloaded = page.request.get(source).body()
    folder = Path(re.search(r"-o (\S+)", command)[1])
    (file,) = folder.iterdir()
    assert file.read_bytes() == downloaded and b"red heart" in downloaded

    page.locator("#option-steps input, #option-steps textarea").fill("0")
    page.locator("#generate").click()
    page.locator("#message .error").wait_for()
    assert "steps" in page.locator("#message").inner_text()
    hosts = {urlsplit(url).hostname for url in requests if url.startswith("http")}
    assert hosts == {"127.0.0.1"}, requests
