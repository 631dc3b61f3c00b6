"""The callback: it ends a training whose loss no longer falls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import keras
from pydantic import Field, PositiveInt

FILE = "plateau.json"
"""The file in the directory of the training with the losses so far."""


class StopAtPlateau(keras.callbacks.Callback):
    """Ends a training when the lowest loss is no longer improved.

    kgen does not save the state of a callback. The losses so far are therefore in a file, from which a resumed training
    reads those up to its first step.

    Args:
        every: Number of steps between two looks at the loss.
        patience: Number of looks without an improvement after which the training ends.
        min_improvement: How much lower a loss must be to count as an improvement.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every: PositiveInt = 50,
        patience: PositiveInt = 10,
        min_improvement: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        self.file = Path(directory) / FILE
        self.every, self.patience, self.min_improvement = every, patience, min_improvement
        self.losses: dict[int, float] = {}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        stored = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        self.losses = {int(step): loss for step, loss in stored.items()}

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = batch + 1
        if step % self.every or logs is None:
            return
        earlier = {number: loss for number, loss in self.losses.items() if number < step}
        self.losses = {**earlier, step: float(logs["loss"])}
        self._store()
        if self.looks_without_improvement() >= self.patience:
            self.model.stop_training = True

    def looks_without_improvement(self) -> int:
        """The number of looks since the last improvement of the lowest loss."""
        lowest, count = float("inf"), 0
        for _, loss in sorted(self.losses.items()):
            count = 0 if loss < lowest - self.min_improvement else count + 1
            lowest = min(lowest, loss)
        return count

    def _store(self) -> None:
        """Writes the losses to a new file, which then replaces the old one: a process can be killed at any moment."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.losses), encoding="utf-8")
        new.replace(self.file)
