"""The runs that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kgen import RunError

DEFAULT = Path("runs")
"""The folder in which `kgen run` makes run directories."""


def find_runs(given: Sequence[Path]) -> dict[str, Path]:
    """The run directories by the names that the page shows: their paths.

    Args:
        given: Run directories, or folders that `kgen.save` wrote; empty: all runs in the folder `runs`.

    Raises:
        RunError: a directory is missing, or there is no run.
    """
    for run in given:
        if not run.is_dir():
            raise RunError(f"there is no run directory {run}: 'kgen studio' without a RUN shows all runs in {DEFAULT}/")
    found = list(given) or sorted(file.parent for file in DEFAULT.glob("*/manifest.json"))
    if not found:
        raise RunError(f"there is no run in {DEFAULT}/: train one with 'kgen run quickstart', or give a RUN")
    return {str(run): run for run in found}
