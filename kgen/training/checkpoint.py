"""Checkpoints, which contain everything that a training needs to continue exactly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.replicas import has_workers
from kgen.errors import RunError
from kgen.parts.lora import lora_layers
from kgen.pipeline.loss_model import LossModel
from kgen.plugins.hookspecs import API
from kgen.plugins.migrations import migrate, positions_became_paths
from kgen.storage.background import BackgroundWriter
from kgen.storage.checkpoints import (
    CHECKPOINT,
    FROZEN,
    checkpoint_file,
    checkpoint_steps,
    delete_checkpoint,
    delete_unfinished,
)
from kgen.storage.paths import COUNTER, weight_paths
from kgen.storage.shards import Shards
from kgen.storage.weights import Arrays, Variables, load_variables, read_metadata
from kgen.training.averages import inner_optimizer

log = logging.getLogger(__name__)


def training_state(model: LossModel) -> Variables:
    """Every variable that a training step reads and writes, by name.

    These are weights and random states, by their paths in the model (`generator/...`); the optimizer's variables, by
    their numbers (`optimizer/0012/...`); and the sums of the running losses (`trackers/...`, `loss_curve/...`). With
    several workers, the sums are left out, because all workers would have to take part in reading them.
    """
    groups = {**_groups(model), "curve": _curve(model)}
    optimizer = {
        f"optimizer/{index:04d}/{COUNTER.sub('', variable.name)}": variable
        for index, variable in enumerate(groups.pop("optimizer"))
    }
    return {**weight_paths(model, [variable for group in groups.values() for variable in group]), **optimizer}


def frozen_state(model: LossModel) -> Variables:
    """The part of `training_state` that a training with LoRA does not change, and that its checkpoints leave out.

    These are the frozen weights, and what frozen layers have besides. It is empty for a training without LoRA, whose
    checkpoints are whole.
    """
    if not lora_layers(model):
        return {}
    frozen = {id(weight) for layer in model._flatten_layers() for weight in _frozen_weights(layer)}
    return {name: variable for name, variable in training_state(model).items() if id(variable) in frozen}


def _frozen_weights(layer: keras.layers.Layer) -> list[Any]:
    """The weights of a layer itself that training does not change, without the states of random generators."""
    statistics = [] if layer.trainable else layer._non_trainable_variables
    return [weight for weight in (*layer._trainable_variables, *statistics) if not weight.trainable]


def _groups(model: LossModel) -> dict[str, list[Any]]:
    norm = getattr(inner_optimizer(model), "gradient_norm", None)  # no step reads it
    optimizer = [variable for variable in model.optimizer.variables if variable is not norm]
    state = {"model": list(model.training_variables), "optimizer": optimizer}
    if _has_workers(model):
        return state
    curve = set(map(id, _curve(model)))
    return {**state, "metrics": [variable for variable in model.metrics_variables if id(variable) not in curve]}


def _curve(model: LossModel) -> list[Any]:
    """The sums of the curve of losses by level."""
    return [] if model.loss_curve is None or _has_workers(model) else list(model.loss_curve.variables)


def _has_workers(model: LossModel) -> bool:
    return has_workers(getattr(model, "distribute_strategy", None))


class Checkpoints:
    """The checkpoints of a training, in a folder that keeps the newest ones.

    With LoRA, most weights are frozen. They are written only once, with the first checkpoint, to the file `FROZEN` of
    the folder. The checkpoints do not contain them.

    Args:
        folder: The folder of `step-NNNNNNNN.safetensors`.
        keep: Number of checkpoints to keep, at least 1.
        writer: Writes the files, while the training goes on.
        worker, workers: Index of this process, and number of processes. Process 0 writes everything, unless the
            processes have parts of the variables. Each of them then writes its own parts.
    """

    def __init__(
        self, folder: Path, keep: int, writer: BackgroundWriter | None = None, worker: int = 0, workers: int = 1
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.writer = BackgroundWriter() if writer is None else writer
        self.worker, self.workers = worker, workers
        self._temporary: set[int] = set()
        self._copied: tuple[int, Arrays] = 0, {}

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are written, in ascending order."""
        return checkpoint_steps(self.folder)

    def save(self, step: int, model: LossModel, temporary: bool = False) -> None:
        """Copies the state of a training. The writer then writes it atomically, and deletes the oldest checkpoints.

        The memory of the copies is kept for those of the next checkpoint. New memory would be that which the training
        has just given back, so that its next step would wait for the system.

        If a weight or the running loss is not finite, the writer raises a RunError instead, and the older checkpoints
        stay.

        Args:
            step: The step.
            model: The model.
            temporary: Whether to delete this checkpoint when the next one is written. It is kept besides the others.

        Raises:
            Exception: the files of an earlier step could not be written.
        """
        self.writer.begin(step)
        frozen = frozen_state(model)
        state = {name: variable for name, variable in training_state(model).items() if name not in frozen}
        checked = {id(variable) for variable in (*model.trainable_variables, *model.trackers["loss"].variables)}
        finite = [name for name, variable in state.items() if id(variable) in checked]
        if self.steps() and self._frozen.is_file():  # an earlier training may have left a file, but no checkpoint
            frozen = {}
        fixed = Shards.copy(frozen, self.worker, self.workers)
        copied_step, memory = self._copied
        memory = {} if step == copied_step else memory  # which the writer may not have written yet
        copies = Shards.copy(state, self.worker, self.workers, memory)
        self._copied = step, copies.arrays
        self.writer.submit(lambda: self._write(step, copies, finite, fixed, temporary))

    def _write(self, step: int, state: Shards, finite: list[str], frozen: Shards, temporary: bool) -> None:
        """Writes the copies that `save` made; `finite` has the names of those that must be finite."""
        if not all(np.isfinite(state.arrays[name]).all() for name in finite if name in state.arrays):
            raise diverged(step, self)
        if frozen.arrays:
            frozen.save(self._frozen, {"api": str(API)})
        if state.arrays:
            state.save(self._path(step), {"step": str(step), "api": str(API)})
        former, self._temporary = self._temporary - {step}, {step} if temporary else set()
        steps = self.steps()
        if step not in steps:  # the process that writes the last file of this step deletes the others
            return
        lasting = [other for other in steps if other not in former | self._temporary]
        for old in [*former, *lasting[: -self.keep]]:
            delete_checkpoint(self.folder, old)

    def restore(self, model: LossModel, last: int) -> int:
        """Loads the newest checkpoint that can be read. Returns its step, or 0 if there is no checkpoint.

        Args:
            model: The model to load it into.
            last: The last step of the training.

        Raises:
            RunError: no checkpoint can be read, or one has a step beyond the last.
        """
        for path in self.folder.glob("step-*"):
            if not CHECKPOINT.fullmatch(path.name):
                log.warning("%s does not have the name of a checkpoint, and is ignored", path)
        steps = self.steps()
        if steps and steps[-1] > last:
            raise RunError(
                f"{self._path(steps[-1])} has a step beyond the last one, {last}: it belongs to another run. "
                "Move it away, and give the same command again"
            )
        for step in reversed(steps):
            try:
                self._load(step, model)
            except RunError as error:
                if step == steps[0]:
                    raise RunError(
                        f"{error}\nNo checkpoint in {self.folder} can be read. Put a copy of one back there; or move "
                        "step-*.safetensors away to start this training again; or start the run again with --restart"
                    ) from error
                log.warning("%s; using the checkpoint before it", error)
            else:
                return self._begin_at(step)
        return self._begin_at(0)

    def _begin_at(self, step: int) -> int:
        """Deletes files of later steps that lack others, so that those of two trainings are never mixed."""
        if self.worker == 0:
            delete_unfinished(self.folder, step)
        return step

    def _load(self, step: int, model: LossModel) -> None:
        """Loads a checkpoint. If an older kgen wrote it, it has no curve of losses by level, which then begins anew."""
        path = self._path(step)
        metadata: dict[str, Any] = read_metadata(path)
        if "api" in metadata:
            metadata["api"] = int(metadata["api"]) if metadata["api"].isdecimal() else metadata["api"]
        found = migrate("checkpoint", metadata, path).get("step")
        frozen = frozen_state(model)
        state = {name: variable for name, variable in training_state(model).items() if name not in frozen}
        begun = {path: np.zeros(v.shape, np.float32) for path, v in weight_paths(model, _curve(model)).items()}
        load_variables(path, state, lambda arrays: begun | positions_became_paths(arrays, _groups(model), state))
        if frozen:
            load_variables(self._frozen, frozen)
        if found != str(step):
            raise RunError(f"{path} holds step {found}: it was renamed")

    @property
    def _frozen(self) -> Path:
        return self.folder / FROZEN

    def _path(self, step: int) -> Path:
        return checkpoint_file(self.folder, step)


def diverged(step: int, checkpoints: Checkpoints) -> RunError:
    """The error for a loss, or for weights, that are not finite."""
    last = checkpoints.steps()[-1:]
    kept = f"the checkpoint of step {last[0]} is kept" if last else "no checkpoint had been written yet"
    return RunError(
        f"training diverged by step {step}: the loss or a weight is NaN or infinite; {kept}. "
        "Try a smaller fit.learning_rate, a longer fit.warmup_steps, or a smaller fit.clip_norm"
    )
