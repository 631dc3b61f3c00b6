"""The pages of the lecture run, at a tiny size, and their two languages have the same code, formulas and figure."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from pages import DOCS, blocks, commands, examples, prose

pytestmark = pytest.mark.portable

LECTURE = DOCS / "lecture"
NAMES = sorted(path.stem for path in LECTURE.glob("en/*.md"))
MAX_FIGURE = 60_000
"""Largest size of a figure, in bytes."""

TINY: dict[str, dict[str, Any]] = {
    "01-goal": {"IMAGES": 40},
    "02-vae": {"IMAGES": 16, "STEPS": 1, "WIDTH": 8},
    "03-flow": {"IMAGES": 16, "STEPS": 1, "WIDTH": 8, "COUPLINGS": 2},
    "04-diffusion": {"IMAGES": 16, "STEPS": 1, "WIDTH": 16},
    "05-gan": {"IMAGES": 16, "STEPS": [1, 2], "WIDTH": 4},
    "06-differences": {"WIDTH": 8, "TIMED": 1},
    "07-ar": {"IMAGES": 16, "STEPS": 1, "WIDTH": 8, "SAMPLES": 2},
    "08-nar": {"IMAGES": 16, "STEPS": 1, "WIDTH": 8, "SAMPLES": 2, "PASSES": [1, 2]},
    "09-combination": {"IMAGES": 16, "STEPS": 1, "WIDTH": 8, "SAMPLES": 2, "PASSES": [1, 2]},
    "10-systems": {"IMAGES": 16, "STEPS": 1, "DECODER_STEPS": 1, "WIDTH": 8, "PASSES": 1},
    "11-measures": {"IMAGES": 32, "STEPS": 1, "CLIP_STEPS": 1, "WIDTH": 8, "SAMPLES": 24, "PASSES": 2},
    "12-mathematics": {"SAMPLES": 20_000, "CHAINS": 2_000, "DDPM_STEPS": [3, 10]},
}
"""The sizes at which a page is tested, in place of those in its first cell."""


def page(name: str, language: str = "en") -> str:
    """The text of a page."""
    return (LECTURE / language / f"{name}.md").read_text(encoding="utf-8")


def test_the_pages_exist_in_both_languages_and_are_listed() -> None:
    for language in ("en", "zh"):
        assert sorted(path.stem for path in LECTURE.glob(f"{language}/*.md")) == NAMES
        listed = re.findall(rf"\]\({language}/([^)]+)\.md\)", (LECTURE / "index.md").read_text(encoding="utf-8"))
        assert listed == NAMES
    assert sorted(TINY) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_languages_differ_only_in_their_text(name: str) -> None:
    english, chinese = page(name), page(name, "zh")
    assert [*blocks(english)] == [*blocks(chinese)] and [*commands(english)] != []
    for pattern in (r"^\$\$.*?^\$\$", r"^---.*?^---", r"!\[[^]]*\]\(.*?\)", r"^#+(?= )"):
        found = [re.findall(pattern, prose(text), re.MULTILINE | re.DOTALL) for text in (english, chinese)]
        assert found[0] != []
        first, second = ([re.sub(r"\[.*?\]", "", each) for each in every] for every in found)
        assert first == second
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 300


@pytest.mark.parametrize("name", NAMES)
def test_the_site_can_show_every_formula(name: str) -> None:
    """A command that the conversion does not know would stay in the MathML as it is."""
    from formulas import with_mathml

    for language in ("en", "zh"):
        shown = with_mathml(page(name, language))
        formulas = re.findall(r"<math.*?</math>", shown, re.DOTALL)
        assert formulas != [] and [formula for formula in formulas if "\\" in formula] == []
        assert "$" not in prose(shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_is_shown_and_small(name: str) -> None:
    assert f"](../figures/{name}.png)" in page(name)
    assert (LECTURE / f"figures/{name}.png").stat().st_size <= MAX_FIGURE


@pytest.mark.parametrize("name", NAMES)
def test_jupytext_reads_the_cells_that_are_tested(name: str) -> None:
    import jupytext

    notebook = jupytext.reads(page(name), fmt="md")
    sources = [f"{cell.source}\n" for cell in notebook.cells if cell.cell_type == "code"]
    assert sources == examples(page(name), "python")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs_and_makes_its_figure(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    sizes, *cells = examples(page(name), "python")
    assert all(isinstance(statement, ast.Assign) for statement in ast.parse(sizes).body), "the first cell holds sizes"
    names: dict[str, Any] = {}
    exec(sizes, names)
    assert set(TINY[name]) <= set(names)
    names.update(TINY[name])
    for number, cell in enumerate(cells, start=2):
        exec(compile(cell, f"{name}.md, cell {number}", "exec"), names)
    matplotlib.pyplot.close("all")
    assert [path.name for path in tmp_path.glob("*.png")] == [f"{name}.png"]
