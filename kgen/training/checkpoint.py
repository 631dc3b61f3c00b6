"""Checkpoints that hold everything training needs to go on as if it had never stopped."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kgen.errors import RunError
from kgen.loss_model import LossModel
from kgen.weights import Groups, load_variables, save_variables

log = logging.getLogger(__name__)


def training_state(model: LossModel) -> Groups:
    """Every variable that a training step reads and writes: weights, random states, optimizer with its averages."""
    return {"model": model.training_variables, "optimizer": list(model.optimizer.variables)}


class Checkpoints:
    """The checkpoints of one training in a folder, of which the newest few are kept.

    Args:
        folder: Where to write `step-NNNNNNNN.safetensors`.
        keep: How many to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.safetensors"))

    def save(self, step: int, model: LossModel) -> None:
        """Writes a checkpoint atomically, then removes the oldest ones.

        Raises:
            RunError: a weight is not finite; the older checkpoints stay.
        """
        if not all(np.isfinite(np.asarray(v.numpy())).all() for v in model.trainable_variables):
            raise diverged(step, self)
        save_variables(self._path(step), training_state(model), {"step": str(step)})
        for old in self.steps()[: -self.keep]:
            self._path(old).unlink(missing_ok=True)

    def restore(self, model: LossModel) -> int:
        """Loads the newest checkpoint that can be read; returns its step, 0 if there is none."""
        steps = self.steps()
        for step in reversed(steps):
            try:
                load_variables(self._path(step), training_state(model))
            except RunError as error:
                if step == steps[0]:
                    raise
                log.warning("%s; taking the checkpoint before it", error)
            else:
                return step
        return 0

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"


def diverged(step: int, checkpoints: Checkpoints) -> RunError:
    """The error for a loss or weights that are no longer finite."""
    last = checkpoints.steps()[-1:]
    kept = f"the checkpoint of step {last[0]} is kept" if last else "no checkpoint had been written yet"
    return RunError(
        f"training diverged before step {step}: the loss or a weight is NaN or infinite; {kept}. "
        "Try a smaller fit.learning_rate, a longer fit.warmup_steps, or a smaller fit.clip_norm"
    )
