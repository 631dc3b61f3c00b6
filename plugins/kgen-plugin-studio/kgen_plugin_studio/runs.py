"""The runs that the page shows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kgen import KgenError, RunError, find_run, installed_models, open_config, read_json

DEFAULT = Path("runs")
"""The folder in which `kgen run` makes run directories."""

MARKS = ("manifest.json", "config.yaml", "pipeline.yaml")
"""Files of a finished run, of a run that has begun, and of a folder that `kgen.save` wrote."""


def find_runs(given: Sequence[Path]) -> dict[str, Path]:
    """The run directories by the names that the page shows: their paths.

    Args:
        given: Run directories, folders that `kgen.save` wrote, or names of installed models; empty: all runs in the
            folder `runs`, and all installed models.

    Raises:
        RunError: a directory is missing, or there is no run.
        PluginError: an installed model cannot be used.
    """
    found = {str(run): find_run(run) for run in given}
    for run in found.values():
        if not run.is_dir():
            raise RunError(f"there is no run directory {run}: 'kgen studio' without a RUN shows all runs in {DEFAULT}/")
    if not given:
        found = {str(run): run for run in sorted({file.parent for name in MARKS for file in DEFAULT.glob(f"*/{name}")})}
        found |= {name: model.folder for name, model in installed_models().items() if not model.fault}
    if not found:
        raise RunError(f"there is no run in {DEFAULT}/: train one with 'kgen run quickstart', or give a RUN")
    return found


def report_of(run: Path) -> Path:
    """The file of the report of a run, which exists when the run is finished."""
    return run / "report.html"


def newest_samples(run: Path) -> Path | None:
    """The newest grid of samples of a run; None: there is none yet."""
    folder = run / "samples"
    final, steps = folder / "final.png", sorted(folder.glob("step-*.png"))
    averaged = [path for path in steps if not path.stem.endswith("-raw")] or steps
    return final if final.is_file() else averaged[-1] if averaged else None


def address_of(name: str, kind: str, file: Path) -> str:
    """The address on the page of a file of a run, which changes when the file does.

    Args:
        name: The name of the run.
        kind: "report" or "samples".
        file: The file.
    """
    return f"{kind}?run={quote(name, safe='')}&version={file.stat().st_mtime_ns}"


@dataclass(frozen=True)
class Summary:
    """What the list of runs shows of a run.

    Args:
        name: The name on the page.
        parts: Its generator and its encoder.
        steps: The number of its training steps, such as "1,050", or "500 of 1,050"; "": it is a folder that
            `kgen.save` wrote.
        state: When it was finished, "not finished", or the distribution of an installed model, with its version.
        scores: Its main scores by name: the mean, and the split that was measured.
        samples: The address of its newest samples; None: there are none.
        report: The address of its report; None: there is none yet.
    """

    name: str
    parts: str
    steps: str
    state: str
    scores: dict[str, float]
    samples: str | None
    report: str | None


def summarize(name: str, run: Path) -> Summary:
    """Reads what the list shows of a run. A file that cannot be read counts as one that is not there."""
    manifest: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    with contextlib.suppress(KgenError, OSError):
        manifest = read_json(run / "manifest.json", dict[str, Any])
    with contextlib.suppress(KgenError, OSError):
        evaluation = read_json(run / "evaluation.json", dict[str, Any])
    components = manifest.get("components", {})
    grid, report = newest_samples(run), report_of(run)
    is_run = (run / "config.yaml").is_file()
    state = f"finished {manifest['finished']}" if manifest.get("finished") else "not finished" if is_run else ""
    installed = installed_models().get(name)
    if installed is not None and installed.folder == run:
        state = f"installed model, {installed.distribution} {installed.version}"
    return Summary(
        name=name,
        parts=", ".join(components[kind]["id"] for kind in ("generator", "encoder") if kind in components),
        steps=_steps(run, manifest.get("step", 0)) if is_run else "",
        state=state,
        scores={
            f"{result['metric']} {result['name']} ({result['split']})": result["mean"]
            for result in evaluation.get("results", [])
            if result["headline"] and result["mean"] is not None
        },
        samples=None if grid is None else address_of(name, "samples", grid),
        report=address_of(name, "report", report) if report.is_file() else None,
    )


def _steps(run: Path, step: int) -> str:
    """The number of training steps, beside their number at the end of the training if it has not reached that yet."""
    steps = step
    with contextlib.suppress(KgenError):  # a plugin may be missing here
        steps = open_config(run).fit.steps
    return f"{step:,}" if step >= steps else f"{step:,} of {steps:,}"
