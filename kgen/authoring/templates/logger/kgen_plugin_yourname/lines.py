"""The logger: it writes the metrics of a run as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kgen import Logger


class Lines(Logger):
    """Writes each row of metrics, and the final scores, as a line of JSON to a file in the run directory.

    If a run is killed, it trains the steps after its last checkpoint again. Their lines are then removed first, so that
    no step occurs twice.

    Args:
        file: Name of the file.
    """

    def __init__(self, directory: Path, *, file: str = "lines.jsonl") -> None:
        super().__init__()
        self.directory = directory
        self.file = file

    @property
    def path(self) -> Path:
        return self.directory / self.file

    def resume(self, stage: str, step: int) -> None:
        kept = [line for line in self._lines() if line.get("stage") != stage or line["step"] <= step]
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
        new.replace(self.path)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._write({"stage": stage, "step": step, **values})

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        if scores is not None:
            self._write({"scores": {split: dict(found) for split, found in scores.items()}})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the file, without one that was not written to its end."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
