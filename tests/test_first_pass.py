"""A run that fills a cache while its disk becomes full: it stops, and goes on when there is space again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disk import full_disk
from safetensors.numpy import load_file

from kgen import DataError
from kgen.config import RunConfig
from kgen.runs.run import run

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("made_plugin")]

LIMIT = 300_000
"""More bytes than any file has, except that of the 800 latents, which has 820,000."""

CONFIG: dict[str, Any] = {
    "data": {"name": "shapes", "size": 32, "count": 800},
    "encoder": {"name": "text/bag", "dim": 8},
    "generator": "made/painter",
    "decoder": {"name": "made/codec", "channels": 2, "fit": {"steps": 2, "batch_size": 4}},
    "fit": {"steps": 40, "batch_size": 4, "checkpoint_every": 40, "log_every": 1},
    "sample": {"every": 0},
}


@pytest.mark.slow
def test_a_disk_that_fills_while_latents_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(name: str, **options: Any) -> dict[str, np.ndarray]:
        monkeypatch.setenv("KGEN_CACHE", str(tmp_path / f"{name}-cache"))
        run(RunConfig.from_dict(CONFIG), tmp_path / name, log=lambda line: None, **options)
        return load_file(tmp_path / name / "checkpoints" / "step-00000040.safetensors")

    with ExitStack() as full:

        def fill_at_step_3(step: int, values: Any) -> None:
            if step == 3 and "loss" in values:
                full.enter_context(full_disk(LIMIT))

        def listen(name: str, steps: int) -> Any:
            return fill_at_step_3 if steps == CONFIG["fit"]["steps"] else lambda step, values: None

        with pytest.raises(DataError) as caught:
            train("stopped", on_metrics=listen)
    checkpoint = max((tmp_path / "stopped" / "checkpoints").glob("step-*.safetensors"))
    step = int(checkpoint.stem.removeprefix("step-"))
    first, last = str(caught.value).splitlines()
    (cache,) = (tmp_path / "stopped-cache").glob("latents-*")
    assert first.startswith(f"{cache / 'rows.bin'} cannot be written: File too large: free some space on this disk, or")
    assert last == f"The checkpoint of step {step} is saved: fix this, and continue with the same command"
    assert 3 <= step < 40
    resumed, whole = train("stopped"), train("whole")
    assert all(np.array_equal(resumed[name], array) for name, array in whole.items()) and len(whole) > 5
