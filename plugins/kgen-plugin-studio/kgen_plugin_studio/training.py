"""The trainings of runs: how far they are, and how to stop and continue them."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from kgen import RunError, open_config
from kgen_plugin_studio.runs import newest_samples

WINDOW = 20
"""Rows of `metrics.csv` over which the speed is averaged."""


@dataclass(frozen=True)
class Progress:
    """How far the training of a run is.

    Args:
        step: The last step in `metrics.csv`; 0: none yet.
        steps: The step at which the training ends.
        losses: The step, the name ("loss" or "val_loss") and the value of each number that is finite.
        images_per_second: The speed in the last rows; None: not known yet.
        seconds_left: The remaining time at that speed; None: not known yet.
        sample: The newest grid of samples; None: there is none yet.
        process: The number of the process that works on the run; None: there is none.
    """

    step: int
    steps: int
    losses: list[tuple[int, str, float]]
    images_per_second: float | None
    seconds_left: float | None
    sample: Path | None
    process: int | None


def read_progress(run: Path) -> Progress:
    """Reads the progress of the training of a run from its files.

    Raises:
        RunError: this is not a run directory.
    """
    steps = open_config(run).fit.steps
    rows = list(_rows(run / "metrics.csv"))
    losses = [(int(row["step"]), name, value) for row in rows for name, value in _losses(row)]
    step = int(rows[-1]["step"]) if rows else 0
    recent = [row for row in rows if row.get("images_per_second")][-WINDOW:]
    speeds = [float(row["images_per_second"]) for row in recent]
    left = None
    if len(recent) > 1:
        (first, began), (last, ended) = ((int(row["step"]), float(row["seconds"])) for row in (recent[0], recent[-1]))
        left = (steps - step) * (ended - began) / (last - first) if last > first and ended > began else None
    return Progress(
        step=step,
        steps=steps,
        losses=losses,
        images_per_second=sum(speeds) / len(speeds) if speeds else None,
        seconds_left=left,
        sample=newest_samples(run),
        process=process_of(run),
    )


def process_of(run: Path) -> int | None:
    """The number of the process of kgen that works on a run, which holds its lock; None if there is none."""
    lock = str((run / ".lock").resolve())
    holders = {}
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        if process.pid == os.getpid() or not any("kgen" in word for word in process.info["cmdline"] or ()):
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if any(file.path == lock for file in process.open_files()):
                holders[process.pid] = process.info["ppid"]
    return next((pid for pid, parent in holders.items() if parent not in holders), None)  # not a worker of it


def stop(run: Path) -> int:
    """Sends Ctrl-C to the training of a run, which then saves a checkpoint and ends. Returns its process.

    Raises:
        RunError: no process trains the run, or the system has no such signal.
    """
    if os.name == "nt":
        raise RunError("on Windows, a training is stopped by Ctrl-C in its own window")
    process = process_of(run)
    if process is None:
        raise RunError(f"no training of {run} is running on this machine, as far as this user can see")
    os.kill(process, signal.SIGINT)
    return process


def resume(run: Path, log: Path) -> subprocess.Popen[bytes]:
    """Continues the training of a run with `kgen run RUN`, in a process that outlives the page.

    Args:
        run: The run directory.
        log: The file for its output.

    Raises:
        RunError: a process works on the run already.
    """
    if (process := process_of(run)) is not None:
        raise RunError(f"process {process} works on {run} already")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        command = [sys.executable, "-m", "kgen.cli", "run", str(run)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The complete rows of `metrics.csv`; none if there is no such file yet."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", newline="") as file:
        text = file.read()
        whole = text[: text.rfind("\n") + 1]  # the training may be writing the last line
        yield from csv.DictReader(whole.splitlines())


def _losses(row: dict[str, str]) -> Iterator[tuple[str, float]]:
    for name in ("loss", "val_loss"):
        value = float(row.get(name) or "nan")
        if math.isfinite(value):
            yield name, value
