"""The lines of a run, of an interrupted run that continues, and of a killed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kgen_plugin_yourname.lines import Lines


def log(directory: Path, start: int, end: int, finished: bool) -> None:
    """Does what a process of a run does."""
    logger = Lines(directory)
    logger.begin({"name": "example"})
    logger.resume("generator", start)
    for step in range(start + 1, end + 1):
        logger.log("generator", step, {"loss": 1.0 / step})
    logger.end({"train": {"accuracy": 0.5}} if finished else None)


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "lines.jsonl").read_text(encoding="utf-8").splitlines()]


def test_nothing_is_written_before_begin(tmp_path: Path) -> None:
    Lines(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_its_rows_and_scores(tmp_path: Path) -> None:
    log(tmp_path, 0, 2, finished=True)
    assert lines(tmp_path) == [
        {"stage": "generator", "step": 1, "loss": 1.0},
        {"stage": "generator", "step": 2, "loss": 0.5},
        {"scores": {"train": {"accuracy": 0.5}}},
    ]


def test_a_resumed_run_has_no_step_twice(tmp_path: Path) -> None:
    Lines(tmp_path).log("decoder", 9, {"loss": 3.0})
    log(tmp_path, 0, 5, finished=False)
    with (tmp_path / "lines.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "gen')  # the process was killed here
    log(tmp_path, 3, 6, finished=True)
    found = lines(tmp_path)
    assert [line["step"] for line in found if line.get("stage") == "generator"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if line.get("stage") == "decoder"] == [9]
    assert "scores" in found[-1]
