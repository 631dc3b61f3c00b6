"""Pages and the terminal show every word of a stranger's as text: markup, quotes, and what commands a terminal."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from command_line import Trained

from kgen.comparison.facts import Table
from kgen.comparison.page import IMAGES, INTERPOLATIONS, Findings, claim, write_comparison
from kgen.comparison.steps import Measurement
from kgen.errors import ConfigError, RunError
from kgen.evaluation.meanings import OF_COLUMNS
from kgen.evaluation.results import BITS, Result, write_results
from kgen.experiments.directory import RunDirectory
from kgen.experiments.sections import ReportSection
from kgen.reporting.page import render
from kgen.reporting.sheets import save_png, save_sheet
from kgen.runs.report import add_to_report, write_report

pytestmark = pytest.mark.portable

EVIL = """<script>alert("1")</script> 'a' & {{ b }} \x1b[31m"""
SHOWN = EVIL.replace("\x1b", "\\x1b")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOWN_COLUMNS = {
    "validation loss": "val_loss",
    "learning rate": "learning_rate",
    "gradient norm": "gradient_norm",
    "images per second": "images_per_second",
}
PIXELS = np.zeros((8, 8, 3), np.uint8)


class Page(HTMLParser):
    """Collects the content of a page, as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.texts: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(page)
        self.texts = [text.strip() for text in self.texts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1:] = ["".join(self.texts[-1:]) + data]

    @property
    def plots(self) -> list[str]:
        """The texts of all plots, which are well-formed XML."""
        start = "data:image/svg+xml;base64,"
        svgs = [base64.b64decode(i["src"][len(start) :]) for i in self.images if i["src"].startswith(start)]  # type: ignore[union-attr, index]
        return [text for svg in svgs for text in ElementTree.fromstring(svg).itertext()]


def test_a_report_shows_every_word_as_text(trained: Trained, tmp_path: Path) -> None:
    directory = RunDirectory(shutil.copytree(trained.directory, tmp_path / "run"))
    manifest = directory.read_manifest()
    part = {"id": EVIL, "distribution": EVIL, "version": "1"}
    directory.update_manifest(
        name=EVIL,
        components={**manifest["components"], "encoder": part},
        data={**manifest["data"], "skipped": [EVIL]},
        timings={**manifest["timings"], EVIL: 1.0},
        notes_on_scores=[EVIL],
    )
    write_results(directory.evaluation, [Result(EVIL, EVIL, EVIL, {0: 0.5}, {"images": EVIL})])
    directory.config.write_text(EVIL)
    steps = [directory.samples / f"step-0000000{step}.png" for step in (3, 4)]
    for path in (directory.final_grid, *steps):
        save_png(path, PIXELS, {"prompt": EVIL})
    write_report(directory, EVIL)
    text = directory.report.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["script"] == 1 and "\x1b" not in text
    assert page.tags["input"] == 1  # the slider of the grids
    assert page.texts.count(SHOWN) == 8, page.texts  # all but what stands in a sentence
    assert f"Prompts, row by row: {SHOWN}" in page.texts
    assert f"{SHOWN} - kgen" in page.texts and f"Note: {SHOWN}." in page.texts and f"{SHOWN} 1" in page.texts
    assert [image["title"] for image in page.images].count(SHOWN) >= 2
    assert page.images[0]["alt"] == f"images after the last step: {SHOWN}"
    assert {"step", "loss", "validation loss"} <= {found.strip() for found in page.plots}


def test_a_report_says_what_the_numbers_on_it_are(trained: Trained, toy: None, tmp_path: Path) -> None:
    directory = RunDirectory(shutil.copytree(trained.directory, tmp_path / "run"))
    write_report(directory, "")
    texts = Page(directory.report.read_text(encoding="utf-8")).texts
    told = texts[texts.index("What the numbers are") + 2 : -3]  # a list, then the footer, its credit, and the script
    assert dict(zip(told[::2], told[1::2], strict=True)) == {
        "brightness": "The mean of all pixels, from 0 to 1.",
        "loss of the generator": "The number that the training of toy/means minimizes.",
        **{name: OF_COLUMNS[column] for name, column in SHOWN_COLUMNS.items()},
    }
    part = {"id": "gan/gan", "distribution": "kgen-plugin-gan", "version": "1"}
    directory.update_manifest(components={**directory.read_manifest()["components"], "generator": part})
    directory.metrics.write_text("step,seconds,loss\n1,2.5,0.5\n")
    seeds = {0: 0.5, 1: 0.6}
    write_results(
        directory.evaluation, [Result("likelihood", "train", BITS, seeds), Result("gone", "train", "a", seeds)]
    )
    write_report(directory, "")
    texts = Page(directory.report.read_text(encoding="utf-8")).texts
    told = texts[texts.index("What the numbers are") + 2 : -3]
    assert told[::2] == [BITS, "±, standard error", "loss of the generator"]
    assert told[5].startswith("The discriminator's loss")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
def test_a_grid_keeps_its_size_on_a_narrow_screen(trained: Trained, toy: None, tmp_path: Path) -> None:
    directory = RunDirectory(shutil.copytree(trained.directory, tmp_path / "run"))
    save_sheet(directory.final_grid, np.zeros((8, 96, 96, 3), np.uint8), [""] * 8, 8, {})
    for step in (3, 6):
        shutil.copy(directory.final_grid, directory.samples / f"step-0000000{step}.png")
    write_report(directory, "")
    measure = "document.title = [...document.images].filter(i => i.className.includes('pixels') && i.clientWidth).map("
    measure += "i => i.clientWidth) + ';' + document.documentElement.scrollWidth"
    page = directory.report.read_text(encoding="utf-8").replace("</html>", f"<script>{measure}</script></html>")
    directory.report.write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,800", "--dump-dom"]
    options.append(f"--user-data-dir={tmp_path / 'browser'}")
    command = [str(CHROMIUM), *options, directory.report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    found = re.search(r"<title>([\d,]+);(\d+)</title>", done.stdout)
    assert found is not None, done
    assert found[1] == "804,804" and int(found[2]) <= 500  # the grid scrolls, and not the page


def test_a_plugin_adds_a_section_to_the_report(trained: Trained, toy: None, tmp_path: Path) -> None:
    directory = RunDirectory(shutil.copytree(trained.directory, tmp_path / "run"))
    (directory.path / "sections").mkdir()
    save_png(directory.path / "sections" / "a.png", PIXELS, {})
    section = ReportSection(EVIL, (EVIL,), ("number", EVIL), ((EVIL, "0.5"),), {"a.png": EVIL, "missing.png": "gone"})
    add_to_report(directory.path, "mine", section, EVIL)
    page = Page(directory.report.read_text(encoding="utf-8"))
    assert page.tags["script"] == 1  # its own
    assert page.texts.count(SHOWN) == 6, page.texts  # title, text, head, cell, caption of the image, credit
    assert SHOWN in [image["alt"] for image in page.images] and "gone" not in page.texts
    add_to_report(directory.path, "mine", ReportSection("Measured again"), "")
    assert "Measured again" in (again := Page(directory.report.read_text(encoding="utf-8"))).texts
    assert SHOWN not in again.texts
    with pytest.raises(ConfigError, match="named 'No/name'"):
        add_to_report(directory.path, "No/name", section, "")
    with pytest.raises(ValueError, match="a row of 1 columns, but the head has 2"):
        ReportSection("", head=("a", "b"), rows=(("c",),))
    (directory.path / "sections" / "mine.json").write_text('{"title": 1}')
    with pytest.raises(RunError, match="damaged: title"):
        write_report(directory, "")


def test_a_comparison_shows_every_word_as_text(tmp_path: Path) -> None:
    for name in (IMAGES, INTERPOLATIONS):
        save_png(tmp_path / name, PIXELS, {"prompt": EVIL})
    found = Findings(
        table=Table([EVIL], [{EVIL: EVIL}], {}),
        configuration={EVIL: [EVIL]},
        notes=[EVIL],
        interpolated=EVIL,
        measured=[Measurement(EVIL, 4, 0.1, {EVIL: 0.5})],
        meanings={EVIL: EVIL},
    )
    made = write_comparison(tmp_path, found)
    text = made.html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["script"] == 1 and "\x1b" not in text
    assert page.texts.count(SHOWN) == 12, page.texts  # note, name, fact (2), key (3), caption, row (2), meaning (2)
    assert f"Interpolation between two noises: {SHOWN}" in page.texts
    assert [image["title"] for image in page.images] == [SHOWN, SHOWN, ""]
    assert [image["alt"] for image in page.images] == [f"images: {SHOWN}", f"interpolations: {SHOWN}", SHOWN]
    assert page.plots.count(SHOWN) == 2 and "4" in page.plots  # the run in the legend, the metric at the axis
    markdown = made.markdown.read_text(encoding="utf-8")
    assert "<script>" not in markdown and "\x1b" not in markdown
    claim(tmp_path)  # it is known again
    made.html.write_text(text.replace("<title>Comparison", "<title>Mine"))
    with pytest.raises(ConfigError, match="but no comparison"):
        claim(tmp_path)


def test_an_undefined_name_in_a_template_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render("base.html")
    with pytest.raises(jinja2.UndefinedError, match="undefined"):
        render("comparison.html", title="x", notes=[])


def test_commands_show_every_word_as_text(
    kgen: Any, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder, a metric's number and a prompt that would paint the terminal."""
    from kgen_toy.parts import Brightness, Letters

    evil, shown = "<b>'\x1b[31m\"", "<b>'\\x1b[31m\""
    run = Path(shutil.copytree(trained.directory, tmp_path / evil))
    monkeypatch.setattr(Brightness, "compute", lambda *arguments: {evil: 1.0})
    monkeypatch.setattr(Letters, "__doc__", f"Counts {evil}.")
    for command in (
        ("evaluate", run),
        ("run", run),
        ("compare", run, "-o", tmp_path / f"c{evil}", "--prompt", evil),
        ("plugins", "list"),
        ("plugins", "show", "toy/letters"),
    ):
        outcome = kgen(*command, COLUMNS="1000")
        assert outcome.status == 0, outcome
        assert "\x1b" not in outcome.out + outcome.err, command
        assert shown in outcome.out or command[1] == "list", outcome
    assert logging.lastResort is not None
    record = logging.LogRecord("kgen", logging.WARNING, "", 0, "%s is damaged", (evil,), None)
    assert logging.lastResort.format(record) == f"{shown} is damaged"
    comparison = tmp_path / f"c{evil}" / "comparison.html"
    assert f"Interpolation between two noises: {shown}" in Page(comparison.read_text(encoding="utf-8")).texts
    assert "\x1b" not in json.dumps(Page((run / "report.html").read_text(encoding="utf-8")).texts)
