"""What every model that is trained has in common: its `call` returns losses of every example."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.replicas import loggable, replica_count

Tensor = Any


class LossModel(keras.Model):  # type: ignore[misc]
    """A Keras model whose `call` returns a dict of losses (B,): "loss" is minimised, the others are reported.

    A subclass creates all weights in ``__init__`` or ``build``, and ends with `track`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.trackers: dict[str, keras.metrics.Mean] = {}

    def hide(self, name: str, value: Any) -> None:
        """Sets an attribute that Keras must neither track nor wrap."""
        object.__setattr__(self, name, value)

    def track(self, losses: dict[str, Tensor], owner: object) -> None:
        """Creates a tracker for each of the losses that `owner` reports."""
        if "loss" not in losses:
            raise ValueError(f"{type(owner).__name__}.compute_losses must return 'loss', not {sorted(losses)}")
        self.trackers = {name: keras.metrics.Mean(name) for name in losses if name != "loss"}

    @property
    def training_variables(self) -> list[Any]:
        """Every variable but the optimizer's that a training step may change, and what it starts from."""
        return list(self.variables)

    def compile(self, optimizer: Any = "adamw", **kwargs: Any) -> None:
        """As in Keras, but takes no loss: the parts have their own. Creates the optimizer's variables at once."""
        super().compile(optimizer=optimizer, **kwargs)
        self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Nothing is left to build; Keras would try, and fail on dict batches under MultiWorkerMirroredStrategy."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Reduces the per-example losses: the one place that averages over the batch, and divides among replicas."""
        for name, tracker in self.trackers.items():
            tracker.update_state(y_pred[name])
        return ops.mean(y_pred["loss"]) / replica_count()

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        return loggable(super().compute_metrics(x, y, y_pred, sample_weight))
