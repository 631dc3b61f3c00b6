"""kgen compare, through the command line."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path

import pytest
from command_line import GOOD, Trained
from PIL import Image

from kgen.comparison.facts import Table, better_scores, different_keys
from kgen.config import RunConfig
from kgen.reporting.tables import escape

pytestmark = pytest.mark.portable


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other data, and of parts that have a likelihood."""
    from command_line import kgen

    folder = tmp_path_factory.mktemp("other")
    config = folder / "other.yaml"
    config.write_text(GOOD.replace("[red, green]", "[red, green, blue]"), encoding="utf-8")
    assert kgen("run", config, cwd=folder).status == 0
    return folder / "runs" / "other"


def test_table_page_and_images(kgen, trained: Trained, other: Path, tmp_path: Path) -> None:
    outcome = kgen("compare", trained.directory, other, "-o", tmp_path / "c", "--prompt", "red", "--prompt", "white")
    assert outcome.status == 0, outcome.err
    with (tmp_path / "c" / "comparison.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], second["run"]) == ("good", "other")
    for row in (first, second):
        assert row["generator"] == "toy/means" and row["parameters"] == "5184" and row["training steps"] == "6"
        assert row["sampling steps"] == "1" and not {"likelihood", "bits per dimension"} & {*row}, "no run has a number"
        assert float(row["images/s sampled"]) > 0 and int(row["peak MiB"]) > 50
    assert 0 <= float(first["brightness mean [1]"]) <= 1 and first["brightness mean [2]"] == ""
    assert 0 <= float(second["brightness mean (holdout) [2]"]) <= 1, "scores of other data have a column of their own"
    page = (tmp_path / "c" / "comparison.html").read_text()
    assert (
        "brightness mean [1] and [2] are not comparable, because they differ in images: 2, 3; prompts: 2, 3; data: "
        in page
    )
    assert "The runs differ in images or captions" in page and page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page refers to other files"
    told = dict(re.findall("<dt>(.*)</dt><dd>(.*)</dd>", page))
    assert told["brightness"] == "The mean of all pixels, from 0 to 1." and told["parameters"].endswith("weights.")
    assert set(told) <= {"brightness", *first} and "seconds per image" not in told
    markdown = (tmp_path / "c" / "comparison.md").read_text()
    assert markdown.startswith("| run | generator | encoder | decoder |") and "(images.png)" in markdown
    assert "| 5,184 |" in markdown
    assert '| data.colors | \\["red", "green"\\] | \\["red", "green", "blue"\\] |' in markdown
    assert "<td>data.colors</td>" in page and first["decoder"] == "kgen/identity"
    with Image.open(tmp_path / "c" / "images.png") as sheet:
        assert sheet.info["prompt"] == "red; white"
    assert "generator" in outcome.out and "comparison.html" in outcome.out
    assert "brightness mean [1] and [2] are not comparable" in outcome.out


def test_quality_against_time(kgen, trained: Trained, tmp_path: Path) -> None:
    outcome = kgen("compare", trained.directory, "-o", tmp_path / "c", "--prompt", "red", "--steps", "2, 1,2")
    assert outcome.status == 0, outcome.err
    with (tmp_path / "c" / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = ("brightness mean", "brightness mean (holdout)")
    assert [(row["run"], row["steps"], row["metric"]) for row in rows] == [
        ("good", steps, metric) for steps in ("1", "2") for metric in metrics
    ]
    assert all(float(row["seconds per image"]) > 0 and 0 <= float(row["value"]) <= 1 for row in rows)
    page, markdown = ((tmp_path / "c" / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    assert page.count("data:image/svg+xml;base64,") == 2 and "Quality over time" in page
    assert "<dt>seconds per image</dt>" in page
    assert "| run | steps | seconds per image | brightness mean |" in markdown
    for name in ("steps-brightness-mean.svg", "steps-brightness-mean-holdout.svg"):
        assert f"({name})" in markdown and (tmp_path / "c" / name).read_text().startswith("<?xml")
    assert "steps.csv" in outcome.out


@pytest.mark.parametrize("steps", ["0", "a,b", "1,,2", "-1", "2.5", ""])
def test_steps_that_are_not_numbers(kgen, trained: Trained, steps: str) -> None:
    kgen("compare", trained.directory, f"--steps={steps}").refuses(f"--steps {steps}: must be numbers of steps from 1")


def test_steps_need_a_metric(kgen, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.directory, tmp_path / "mute")
    config = tmp_path / "mute" / "config.yaml"
    config.write_text(re.sub(r"metrics:\n(  - .*\n(    .*\n)*)", "metrics: []\n", config.read_text()))
    kgen("compare", tmp_path / "mute", "--steps", "1").refuses("needs a metric, but mute has none")


def test_runs_that_cannot_be_compared_are_refused(kgen, trained: Trained, tmp_path: Path) -> None:
    kgen("compare", trained.directory, tmp_path / "none").refuses("there is no run directory")
    kgen("compare", trained.config).refuses("is a file")
    (tmp_path / "half").mkdir()
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / "half" / name).write_bytes((trained.directory / name).read_bytes())
    kgen("compare", tmp_path / "half").refuses("holds no trained pipeline", "finish its training first")


def test_a_likelihood_of_a_generator_without_one_is_refused(kgen, good: Path) -> None:
    good.write_text(good.read_text().replace("{metrics:", "{likelihood: {images: 4}, metrics:"), encoding="utf-8")
    kgen("check", good).refuses("evaluate.likelihood: Means has no likelihood", "good.yaml")


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    kgen, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*arguments: object, **options: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("kgen.comparison.compare.load", measured)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "mine").mkdir()
    for name in ("images.png", "steps-speed.svg"):
        (tmp_path / "mine" / name).write_text("precious")
    for out, message in (
        ("file", "cannot be written to"),
        ("file/below", "cannot be written to"),
        ("/proc/comparison", "cannot be written to"),
        ("mine", "holds images.png, steps-speed.svg, but no comparison: choose another folder"),
    ):
        kgen("compare", trained.directory, "-o", tmp_path / out).refuses(message)
    assert (tmp_path / "mine" / "images.png").read_text() == "precious"


def test_names_and_prompts_are_escaped_in_markdown() -> None:
    assert escape("a|b <img src=x> [x](y) *c* _d_ my_run `e`\n# f") == (
        r"a\|b &lt;img src=x&gt; \[x\](y) \*c\* \_d\_ my_run \`e\` # f"
    )


def test_directions_of_scores_and_differing_keys_are_shown() -> None:
    config = RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 4},
            "encoder": "text/bag",
            "generator": "diffusion/diffusion",
            "fit": {"steps": 1},
            "evaluate": {"metrics": ["attributes", "retrieval"]},
        }
    )
    other = RunConfig.from_dict({**config.dump(), "name": "other", "seed": 3, "evaluate": {"metrics": ["attributes"]}})
    facts = {"attributes accuracy (holdout)": 0.25, "bits per dimension": math.nan, "s": 1234567.25}
    found = Table(["one"], [facts], better_scores(config))
    head = ["run", "attributes accuracy (holdout) \N{UPWARDS ARROW}", "bits per dimension", "s", "peak MiB"]
    assert found.to_read()[0] == head
    assert found.to_read()[1] == [["one", "0.250", "nan", "1,234,567", ""]]
    assert found.to_compute()[1] == [["one", "0.25", "nan", "1234567.25", ""]]
    different = different_keys([config, other])
    assert set(different) == {"seed", "evaluate.metrics"} and different["seed"] == ["0", "3"]
    assert different["evaluate.metrics"][1] == '[{"name": "kgen/attributes"}]'


def test_runs_of_different_sizes_are_refused_before_anything_is_measured(
    kgen, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgen.comparison.compare.load", lambda path: pytest.fail("too late"))
    larger = tmp_path / "larger"
    shutil.copytree(trained.directory, larger)
    text = (larger / "model" / "pipeline.yaml").read_text()
    (larger / "model" / "pipeline.yaml").write_text(text.replace("- 8\n- 8\n", "- 16\n- 16\n"))
    outcome = kgen("compare", trained.directory, larger, "-o", tmp_path / "c")
    outcome.refuses("images of different sizes: good: 8x8x3, larger: 16x16x3")
    assert not (tmp_path / "c").exists()
