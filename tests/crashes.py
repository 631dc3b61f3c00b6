"""A sweep in which an evaluation kills a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import TOY, quickest_backend
from made_plugins import Site, installed

from kgen.studies.study import Study
from kgen.sweeps.engines import Engine
from kgen.sweeps.sweep import Swept, sweep

KILLER = """\
import os, signal, time
import kgen

KGEN_API = 1


class Fatal(kgen.Metric):
    def update(self, batch):
        self.add(levels=batch.images.sum(dtype=float), count=batch.images.size)
        if batch.images.std() > 124:
            os.kill({pid}, signal.SIGKILL)
            time.sleep(60)

    def compute(self):
        return {{"mean": float(self.sums["levels"] / self.sums["count"])}}


@kgen.hookimpl
def kgen_components(registry):
    registry.metric("fatal", f"{{__name__}}:Fatal", summary="Kills a process if images are noisy")
"""


def crash(site: Site, run: Path, out: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, pid: str) -> Swept:
    """A sweep of three evaluations, the second of which kills a process."""
    site.install("crash", KILLER.format(pid=pid))
    paths = [str(TOY), str(site.path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("KERAS_BACKEND", quickest_backend())
    with installed(TOY):
        text = f"run: {run}\nover: {{strength: [0, 50, 0.1]}}\nmetrics: [crash/fatal]\n"
        (out.parent / "study.yaml").write_text(text, encoding="utf-8")
        return sweep(Study.load(out.parent / "study.yaml"), out, engine=engine)
