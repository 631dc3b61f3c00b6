"""Checks that the models that guide the trials exist, or that the sweep will train them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kgen.config import FitConfig, RunConfig
from kgen.config.overrides import Setting
from kgen.config.short_keys import SAMPLING
from kgen.contracts.capabilities import Capability, option_of
from kgen.errors import RunError
from kgen.parts.steps import CHECKPOINTS, checkpoint_of
from kgen.plugins.discovery import registry
from kgen.storage.checkpoints import checkpoint_file, kept_steps
from kgen.storage.weights import find_weights

MODEL = "model"
"""The folder of a run with its final pipeline."""


def guide_problems(
    configs: Iterable[tuple[RunConfig, Sequence[Setting]]], trained: Mapping[Path, FitConfig]
) -> Iterator[str]:
    """Yields a message for each guide that will not exist when the trials are evaluated.

    Args:
        configs: The configuration of each trial, and the settings of the study in it, in order.
        trained: The settings of each training of the sweep, by the run directory.
    """
    for config, settings in configs:
        option = option_of(registry().find("generator", config.generator.name).load().generate, Capability.GUIDE)
        given: Any = None if option is None else config.sample.options.get(option)
        if given is None:
            continue
        key = f"{SAMPLING}.{option}"
        source, step = (given, None) if isinstance(given, str) else (given["from"], given.get("step"))
        if problem := _problem(Path(source), step, trained):
            places = [s.origin.label for s in settings if f"{s.key}.".startswith(f"{key}.") or s.key == SAMPLING]
            yield f"{places[-1]}: {key}: {problem}" if places else f"{key}: {problem}"


def _problem(path: Path, step: int | None, trained: Mapping[Path, FitConfig]) -> str:
    """Why there will be no such model; "" if there will be one."""
    run = next((run for run in trained if path == run or run in path.parents), None)
    if run is None:
        return _missing(path, step)
    if path not in (run, run / MODEL) or (step is not None and path != run):
        return f"{path} will not be a saved model: refer to the run itself, not to a folder in it"
    fit = trained[run]
    kept = kept_steps(fit.steps, fit.checkpoint_every, fit.keep)
    if step is None or step in kept or checkpoint_file(run / CHECKPOINTS, step).is_file():
        return ""
    return (
        f"the run {run.name} will not have a checkpoint of step {step}, but of {' and '.join(map(str, kept))}: "
        f"fit.steps is {fit.steps}, fit.checkpoint_every is {fit.checkpoint_every}, and fit.keep is {fit.keep}"
    )


def _missing(path: Path, step: int | None) -> str:
    """Why a folder that exists already has no such model; "" if it has one."""
    if not path.is_dir():
        return f"there is no folder {path}: give a finished run, or a folder that kgen.save wrote"
    try:
        _ = find_weights(path) if step is None else checkpoint_of(path, step)
    except RunError as error:
        return str(error)
    return ""
