"""Loads a pipeline from the folder in which it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kgen.parts.saving import restore
from kgen.pipeline.model import Pipeline


def load(path: str | Path, *, custom: Sequence[type[Any]] = ()) -> Pipeline:
    """Reads a pipeline that `kgen.save` or `kgen run` wrote.

    It does not contain the optimizer's state, which is in the checkpoints of a run: `kgen run RUNDIR --set fit.steps=N`
    continues a training.

    Args:
        path: The folder, or a run directory, whose `model/` is read.
        custom: Classes of parts that no plugin has registered.

    Raises:
        RunError: there is no pipeline, or it is damaged.
        ConfigError: a plugin that it needs is missing.
    """
    return restore(Pipeline, path, custom)
