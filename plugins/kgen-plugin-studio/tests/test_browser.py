"""The page in a real browser, which may load nothing from other hosts."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from kgen_plugin_studio.fields import BOOLEANS, Field
from kgen_plugin_studio.server import application, private_gradio
from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.training import process_of
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]

TOKEN = "a8f5f167f44f4964"

WATCH_IMAGES = """() => {
  window.watched = new Set();
  const look = () => document.querySelectorAll("#images img").forEach(image => watched.add(image.src));
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""
"""Collects the addresses of all images that the page shows from now on."""

TRAINING = """\
data: {name: shapes, size: 16, count: 40, holdout: [purple square]}
encoder: {name: text/bag, dim: 8}
generator:
  name: diffusion/diffusion
  network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}
fit: {steps: 1000000, batch_size: 4, warmup_steps: 0, log_every: 5, validate_every: 1000}
sample: {every: 20, options: {steps: 1}, prompts: [red circle]}
"""

UPSCALING = """\
data: {name: shapes, size: 16, count: 12, holdout: [purple square]}
encoder: {name: text/bag, dim: 8}
generator:
  name: diffusion/diffusion
  network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}
decoder: {name: superres/regression, factor: 2, width: 8, blocks: 1, fit: {steps: 2, batch_size: 4}}
fit: {steps: 2, batch_size: 4}
sample: {every: 0, options: {steps: 1}, prompts: [red circle]}
"""

CAPTIONING = """\
data:
  name: captioning/captions
  of: {name: shapes, size: 16, colors: [red], shapes: [circle], sizes: [large], positions: [left, right], holdout: [],
       jitter: 0.03, count: 12, validation: 4}
  length: 32
encoder: {name: vision/patches, field: original, dim: 8, depth: 1, heads: 1}
generator: {name: tokens/nar, length: predicted, network: {width: 8, depth: 1, heads: 1}}
decoder: captioning/letters
fit: {steps: 2, batch_size: 4}
sample: {every: 0, options: {steps: 1}}
"""


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
    page.set_default_timeout(60_000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    yield page
    context.close()
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}, requests


def fill(page: Any, ident: str, text: str) -> None:
    page.locator(f"#{ident}").locator("input, textarea").first.fill(text)


def choose(page: Any, ident: str, name: str) -> None:
    """Chooses an entry of a dropdown."""
    page.locator(f"#{ident} input").click()
    page.locator(f"#{ident}").get_by_role("option", name=name, exact=True).click()


def generate(page: Any) -> list[tuple[Path, bytes]]:
    """Clicks the button, and waits for new images: each file, with what the browser gets."""
    page.locator("#generate").click()
    page.locator("#command").wait_for()  # which is hidden until the images are there
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
    with served(Studio({str(run): run}, tmp_path)) as address:
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


def test_every_input_can_be_changed(page: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio({str(run): run, "other": run}, tmp_path)
    flag = Field("flag", "true", "", BOOLEANS)
    with served(studio) as address:
        page.goto(address)
        fill(page, "option-steps", "2")
        fill(page, "number", "2")
        page.get_by_text("More options").click()
        choose(page, "option-sampler", "ddpm")
        fill(page, "prompt", "red heart")
        assert len(generate(page)) == 2
        line = shlex.split(page.locator("#command .cm-line").inner_text())
        assert line[line.index("-n") + 1] == "2" and "sampler=ddpm" in line
        assert page.get_by_text("common.").count() == 0, "a key of Gradio's translations has no text"

        abilities = studio.abilities(str(run))
        for ability in ({"strength": 0.5}, {"strength": 0.5, "inpaints": True}, {"strength": None, "blends": True}):
            changed = dataclasses.replace(abilities, fields=[*abilities.fields, flag], **ability)
            monkeypatch.setattr(studio, "abilities", lambda name, changed=changed: changed)
            page.reload()
            page.get_by_text("Blend two images" if changed.blends else "Start from an image").click()
            page.locator("#blend" if changed.blends else "#strength").wait_for()
            page.get_by_text("More options").click()
            page.locator("#option-flag").wait_for()
            for tab in ("Images", "Train", "Runs", "Generate"):
                page.get_by_role("tab", name=tab).click()
                page.wait_for_timeout(300)
                inputs = page.locator("input:disabled, textarea:disabled, select:disabled")
                assert inputs.evaluate_all("all => all.map(input => input.closest('[id]').outerHTML)") == []


def test_what_is_missing_is_said_in_the_words_of_the_page(page: Any, run: Path, tmp_path: Path) -> None:
    with served(Studio({"tiny": run, "other": run}, tmp_path)) as address:
        page.goto(address)
        page.locator("#generate").click()
        assert page.locator("#message .error").inner_text() == "error: there is no prompt: type one"
        offered = page.locator("#others").get_by_role("option")
        page.locator("#others input").click()
        offered.first.wait_for()
        assert offered.all_inner_texts() == ["other"], "not the chosen run itself"
        offered.first.click()
        choose(page, "run", "other")
        page.locator("#run").get_by_role("option").first.wait_for(state="detached")
        page.locator("#others input").click()
        offered.get_by_text("tiny").wait_for()
        assert offered.all_inner_texts() == ["tiny"]
        assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_are_compared_side_by_side_and_a_token_opens_the_page(
    page: Any, run: Path, tokens: Path, tmp_path: Path
) -> None:
    with served(Studio({"tiny": run, "other": tokens}, tmp_path), TOKEN) as address:
        assert page.goto(address).status == 401
        assert "token" in page.inner_text("body")
        page.goto(f"{address}?token={TOKEN}")
        assert TOKEN not in page.url
        fill(page, "option-steps", "2")
        fill(page, "prompt", "red heart\nblue star")
        choose(page, "others", "other")
        page.locator("#show-steps input").check()
        page.evaluate(WATCH_IMAGES)
        files = [file for file, _ in generate(page)]
        assert page.evaluate("watched.size") > len(files), "the images of the steps have other addresses"
        assert [file.parent.name for file in files] == ["0001-tiny", "0002-tokens"] * 2  # a row for each prompt
        assert [file.name for file in files[::2]] == ["0000-red-heart.png", "0001-blue-star.png"]
        assert page.locator("#images .caption-label").all_inner_texts() == ["tiny", "other"] * 2


@pytest.mark.slow
def test_only_the_painted_part_of_an_image_changes(page: Any, tokens: Path, tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(40, 0).repeat(40, 1)
    source = Image.fromarray(blocks)
    source.save(tmp_path / "source.png")
    with served(Studio({"tokens": tokens}, tmp_path / "out")) as address:
        page.goto(address)
        fill(page, "prompt", "red heart")
        page.get_by_text("Start from an image").click()
        canvas = page.locator("#source canvas").first
        canvas.wait_for()
        page.get_by_text("Upload an image").wait_for()
        page.wait_for_timeout(2000)  # until the editor is ready
        page.locator("#source input[type=file]").first.set_input_files(str(tmp_path / "source.png"))
        page.get_by_text("Upload an image").wait_for(state="hidden")
        page.wait_for_timeout(2000)  # until the image fits into the canvas
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 40, steps=5)
        page.mouse.up()
        page.wait_for_timeout(1000)
        ((file, _),) = generate(page)
        (mask,) = (tmp_path / "out" / "uploads").glob("mask-*.png")
        painted = np.asarray(Image.open(mask)).reshape(8, 40, 8, 40).max((1, 3)) > 0
        changed = (np.asarray(Image.open(file)) != np.asarray(source.resize((8, 8), Image.Resampling.LANCZOS))).any(-1)
        assert 0 < painted.sum() < 40 and changed.any()
        assert not changed[~painted].any()


@pytest.mark.slow
def test_a_training_is_watched_stopped_and_resumed(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    Path("tiny.yaml").write_text(TRAINING, encoding="utf-8")
    directory = Path("runs") / "tiny"
    command = [sys.executable, "-m", "kgen.cli", "run", "tiny.yaml"]
    training = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        wait_for(lambda: (directory / "samples").is_dir() and any((directory / "samples").glob("*.png")))
        studio = Studio({"runs/tiny": directory}, tmp_path / "out")
        with served(studio) as address:
            page.goto(address)
            page.get_by_role("tab", name="Train").click()
            facts = page.locator("#progress")
            facts.get_by_text("time left").wait_for()
            text = facts.inner_text()
            assert "of 1,000,000" in text and "images per second" in text and "loss" in text
            assert f"process {training.pid} trains" in text
            page.locator("#samples img").wait_for()
            page.locator("#stop").click()
            page.locator("#answer").get_by_text("saves a checkpoint").wait_for()
            training.wait(120)
            assert any((directory / "checkpoints").iterdir())
            facts.get_by_text("no process trains").wait_for()
            before = step_of(facts)
            page.locator("#resume").click()
            page.locator("#answer").get_by_text("continues the training").wait_for()
            wait_for(lambda: step_of(facts) > before)
            (resumed,) = studio.started
            assert process_of(directory) == resumed.pid
            page.locator("#stop").click()
            resumed.wait(120)
    finally:
        for process in (training, *(studio.started if "studio" in locals() else ())):
            process.kill()
            process.wait()


def step_of(facts: Any) -> int:
    return int(re.search(r"step\s+([\d,]+)", facts.inner_text())[1].replace(",", ""))


def wait_for(condition: Any, seconds: float = 300) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.2)


@pytest.mark.slow
def test_new_runs_appear_and_images_are_processed(
    page: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kgen_plugin_studio.runs.installed_models", dict)
    shutil.copytree(run, "runs/first")
    Image.new("RGB", (8, 8), "orange").save("orange.png")
    with served(Studio({"runs/first": Path("runs/first")}, Path("out"), search=True)) as address:
        page.goto(address)
        page.get_by_role("tab", name="Runs").click()
        assert page.locator("#runs .studio-run h3").all_inner_texts() == ["runs/first"]
        shutil.copytree(run, "runs/second")
        page.locator("#runs h3").get_by_text("runs/second").wait_for()
        page.get_by_role("tab", name="Images").click()
        choose(page, "image-run", "runs/second")
        page.locator("#image-files input[type=file]").set_input_files("orange.png")
        page.locator("#image-files").get_by_text("orange").first.wait_for()
        page.locator("#process").click()
        page.locator(".studio-message.error", has_text="runs/second is not a run directory").wait_for()


@pytest.mark.slow
def test_an_image_is_made_larger_and_described(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    for name, text in {"large": UPSCALING, "words": CAPTIONING}.items():
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")
        printed(f"kgen run {name}.yaml")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8)).save("small.png")
    runs = {f"runs/{name}": Path("runs") / name for name in ("large", "words")}
    with served(Studio(runs, Path("out"))) as address:
        page.goto(address)
        page.get_by_role("tab", name="Images").click()
        page.locator("#image-files input[type=file]").set_input_files("small.png")
        page.locator("#image-files").get_by_text("small").first.wait_for()

        page.get_by_label("Larger images (kgen upscale)").check()
        page.locator("#process").click()
        page.locator("#image-line").wait_for()
        page.locator("#processed img").first.wait_for()
        shown = page.request.get(page.locator("#processed img").first.get_attribute("src")).body()
        line = shlex.split(page.locator("#image-line .cm-line").inner_text())
        (file,) = Path(line[line.index("-o") + 1]).iterdir()
        assert file.read_bytes() == shown and Image.open(file).size == (20, 16)
        file.unlink()
        printed(shlex.join(line))
        assert file.read_bytes() == shown

        choose(page, "image-run", "runs/words")
        page.get_by_label("Captions (kgen caption)").check()
        page.locator("#captions").wait_for()
        page.locator("#image-prompt").wait_for(state="hidden")
        fill(page, "image-options", "steps=2")
        page.locator("#process").click()
        page.locator("#image-line .cm-line", has_text="kgen caption").wait_for()
        caption = page.locator("#captions textarea").input_value()
        assert printed(page.locator("#image-line .cm-line").inner_text()) == f"{caption}\n"


def printed(line: str) -> str:
    """What a command line of kgen prints, in a process of its own."""
    command = [sys.executable, "-m", "kgen.cli", *shlex.split(line)[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
