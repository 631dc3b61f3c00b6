"""Loads a pipeline from the folder in which it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kgen.parts.saving import restore
from kgen.parts.steps import load_step
from kgen.pipeline.model import Pipeline
from kgen.plugins.models import find_run


def load(path: str | Path, *, step: int | None = None, custom: Sequence[type[Any]] = ()) -> Pipeline:
    """Reads a pipeline that `kgen.save` or `kgen run` wrote.

    It does not contain the optimizer's state, which is in the checkpoints of a run: `kgen run RUNDIR --set fit.steps=N`
    continues a training.

    Args:
        path: The folder; or a run directory, whose `model/` is read; or the name of an installed model.
        step: The step of a checkpoint that the run has kept, whose weights replace the final ones (their EMA, if the
            training has one); None: the final weights.
        custom: Classes of parts that no plugin has registered.

    Raises:
        RunError: there is no pipeline, it is damaged, or the run has no checkpoint of that step.
        ConfigError: a plugin that it needs is missing.
        PluginError: the installed model cannot be used.
    """
    folder = find_run(path)
    pipeline = restore(Pipeline, folder, custom)
    if step is not None:
        load_step(pipeline, folder, step)
    return pipeline
