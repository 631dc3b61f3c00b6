"""A run that ends between the checkpoint of a step and the other work of this step does that work when it continues."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import GOOD

from kgen.config import RunConfig
from kgen.errors import RunInterruptedError
from kgen.evaluation.proxy import Proxy
from kgen.runs.run import run
from kgen.training.callbacks import Validate
from kgen.training.journal import read_rows
from kgen.training.outputs import Sheets

pytestmark = pytest.mark.portable

CONFIG = {
    **yaml.safe_load(GOOD),
    "decoder": {"name": "made/codec", "fit": {"steps": 3, "batch_size": 4, "validate_every": 2, "log_every": 1}},
    "fit": {"steps": 3, "batch_size": 4, "validate_every": 2, "log_every": 1, "ema": 0.5},
    "sample": {"every": 2},
    "evaluate": {"metrics": ["brightness"], "every": 2, "proxy_images": 3, "images": 1},
    "loggers": [],
}
"""There is work at step 2, which only has a temporary checkpoint, and at step 3, the last one."""

TIMES = ("seconds", "images_per_second", "input_wait", "input_images_per_second", "memory")


def outputs(folder: Path) -> dict[str, Any]:
    """What a run makes during its trainings, by file."""
    journals = {path: read_rows(path) for path in folder.rglob("metrics.csv")}
    rows = {path: [{k: v for k, v in row.items() if k not in TIMES} for row in rows] for path, rows in journals.items()}
    files = {path: path.read_bytes() for path in (*folder.rglob("*.png"), folder / "proxy.csv")}
    return {path.relative_to(folder).as_posix(): found for path, found in {**rows, **files}.items()}


def test_what_is_missing_of_the_last_checkpoint_is_made(
    made_plugin: None, toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process does two parts of the work, and ends at the next part."""
    done = list[str]()
    left = 1000

    def counted(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def call(self: Any, step: int, *arguments: Any) -> None:
            nonlocal left
            if not left and name != "Validate":
                raise KeyboardInterrupt  # as if the process were killed
            if not left:
                signal.raise_signal(signal.SIGTERM)
            else:
                left -= 1
                done.append(f"{name} {step}")
            method(self, step, *arguments)

        return call

    for owner, name in ((Validate, "at_step"), (Sheets, "__call__"), (Proxy, "__call__")):
        monkeypatch.setattr(owner, name, counted(owner.__name__, getattr(owner, name)))
    config = RunConfig.from_dict(CONFIG)
    run(config, tmp_path / "whole", log=lambda text: None)
    expected, done[:] = list(done), []
    ends = 0
    while not (tmp_path / "ended" / "report.html").exists():
        left = 2 if done else 1
        try:
            run(config, tmp_path / "ended", log=lambda text: None)
        except (KeyboardInterrupt, RunInterruptedError):
            ends += 1
            assert done == expected[: 2 * ends - 1]
    assert done == expected and 2 * ends == len(expected) == 14
    assert outputs(tmp_path / "ended") == outputs(tmp_path / "whole")
