"""The runs that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kgen import RunError, find_run, installed_models

DEFAULT = Path("runs")
"""The folder in which `kgen run` makes run directories."""


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
        found = {str(file.parent): file.parent for file in sorted(DEFAULT.glob("*/manifest.json"))}
        found |= {name: model.folder for name, model in installed_models().items() if not model.fault}
    if not found:
        raise RunError(f"there is no run in {DEFAULT}/: train one with 'kgen run quickstart', or give a RUN")
    return found
