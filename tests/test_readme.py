"""What the README and the guides show, runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import ROOT, examples, read_page


@pytest.mark.portable
def test_the_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = examples(read_page("README.md"), "python", "kgen.assemble")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "kgen.backend.compiled.compile_sampling", lambda looped=None: False
    )  # XLA takes longer than four steps
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["images"].shape == (4, 16, 16, 3)  # type: ignore[attr-defined]


def test_the_run_file(tmp_path: Path) -> None:
    from kgen.config import RunConfig
    from kgen.config.shipped import find_run_file

    (example,) = examples(read_page("README.md"), "yaml")
    (tmp_path / "readme.yaml").write_text(example, encoding="utf-8")
    shown, own = (RunConfig.load(path).dump() for path in (tmp_path / "readme.yaml", find_run_file("quickstart")))
    assert {**shown, "name": "quickstart"} == own
    assert examples(read_page("docs/start.md"), "yaml") == [example]


def test_the_study(tmp_path: Path) -> None:
    from kgen.studies.study import Study
    from kgen.studies.trials import make_plan

    (example,) = examples(read_page("docs/guides/sweep.md"), "yaml", "run:")
    (tmp_path / "study.yaml").write_text(example, encoding="utf-8")
    plan = make_plan(Study.load(tmp_path / "study.yaml"), tmp_path / "runs")
    assert len(plan.trials) == 27 and len(plan.trainings) == 3 and [t.name for t in plan.first] == ["small"]


def test_the_metric() -> None:
    from kgen.contracts.metric import GeneratedImages, measure

    (example,) = examples(read_page("docs/guides/plugins/metric.md"), "python", "(kgen.Metric)")
    names: dict[str, Any] = {}
    exec(compile(example, "metric.md", "exec"), names)
    batches = [GeneratedImages(np.full((1, 2, 2, 3), level, np.uint8), ["a"]) for level in (0, 255)]
    assert measure(names["Brightness"](), None, "train", batches) == {"mean": 0.5}  # type: ignore[arg-type]


def test_every_path_it_names_is_there() -> None:
    text = read_page("README.md")
    paths = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:kgen|configs|benchmarks)/[\w/.-]*)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
