"""Loads the weights of an earlier step of a training into the pipeline of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgen.backend.attributes import kept_trainable
from kgen.config import FitConfig, RunConfig
from kgen.errors import RunError
from kgen.parts.lora import merge_lora
from kgen.parts.trained import select_trained
from kgen.storage.checkpoints import FROZEN, checkpoint_file, checkpoint_steps
from kgen.storage.paths import COUNTER, weight_paths
from kgen.storage.weights import Arrays, read_arrays

CHECKPOINTS, CONFIG = "checkpoints", "config.yaml"
"""The folder of a run's checkpoints, and the file of its configuration."""

AVERAGE = "_average"
"""Suffix of the names of the optimizer's variables that hold the EMA of a weight."""


def checkpoint_of(run: Path, step: int) -> Path:
    """The checkpoint of a step of a run.

    Raises:
        RunError: the run has not kept it. The message names the steps whose checkpoints it has kept.
    """
    file = checkpoint_file(run / CHECKPOINTS, step)
    if not file.is_file():
        kept = checkpoint_steps(run / CHECKPOINTS)
        there = f"it has those of {', '.join(map(str, kept))}" if kept else "it has none"
        raise RunError(
            f"{run} has no checkpoint of step {step}: {there}. To keep more, train with a larger fit.keep, and choose "
            "fit.checkpoint_every"
        )
    return file


def load_step(pipeline: Any, run: Path, step: int) -> None:
    """Replaces the trained weights of a run's pipeline with those of an earlier step, or with their EMA if it exists.

    Args:
        pipeline: The pipeline that the run has saved, as `restore` returns it.
        run: The run directory.
        step: The step of one of the checkpoints that the run has kept.

    Raises:
        RunError: there is no such checkpoint, or it is damaged or belongs to another model.
    """
    file = checkpoint_of(run, step)
    fit = RunConfig.load(run / CONFIG).fit
    arrays, _ = read_arrays(file)
    if fit.lora is not None:
        arrays |= read_arrays(file.parent / FROZEN)[0]
    with kept_trainable(pipeline):
        select_trained(pipeline, fit)
        _assign(pipeline, arrays, fit, file)
        merge_lora(pipeline)


def _assign(pipeline: Any, arrays: Arrays, fit: FitConfig, file: Path) -> None:
    """Assigns the weights in a checkpoint, or their EMA if it exists."""
    weights = weight_paths(pipeline, pipeline.training_variables)
    if fit.ema is not None:
        arrays |= _averages(arrays, pipeline, weights, file)
    for path, weight in weights.items():
        if path not in arrays or arrays[path].shape != tuple(weight.shape):
            raise _other_model(file, path)
    for path, weight in weights.items():
        weight.assign(arrays[path])


def _averages(arrays: Arrays, pipeline: Any, weights: dict[str, Any], file: Path) -> Arrays:
    """The EMA of each trained weight, by the weight's path. The optimizer has the EMAs in the order of the weights."""
    paths = {id(weight): path for path, weight in weights.items()}
    wanted = pipeline.trainable_variables
    found = [name for name in arrays if name.startswith("optimizer/") and name.endswith(AVERAGE)]
    found.sort(key=lambda name: int(name.split("/")[1]))
    if len(found) != len(wanted):
        raise _other_model(file, f"the number of averaged weights, {len(found)} in place of {len(wanted)}")
    for name, weight in zip(found, wanted, strict=True):
        if name.split("/")[2] != COUNTER.sub("", weight.path.replace("/", "_") + AVERAGE):
            raise _other_model(file, name)
    return {paths[id(weight)]: arrays[name] for name, weight in zip(found, wanted, strict=True)}


def _other_model(file: Path, where: str) -> RunError:
    return RunError(f"{file} was written for another model than the run's: it differs in {where}")
