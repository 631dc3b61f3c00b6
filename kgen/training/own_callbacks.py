"""The callbacks that a run file names, which plugins bring; `kgen.contracts.callback` says what they can expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kgen.config import ComponentConfig
from kgen.pipeline.assembly import construct, find
from kgen.plugins.faults import component_errors

SEES_STEPS = ("on_train_batch_end", "on_batch_end")


def make_callbacks(choices: Sequence[ComponentConfig], directory: Path) -> list[keras.callbacks.Callback]:
    """Makes the callbacks of a `fit` section.

    Args:
        directory: Of the training, for those that want it.

    Raises:
        ConfigError: an option is wrong. PluginError: one cannot be imported or made.
    """
    made = []
    for choice in choices:
        component, given = find("callback", choice.choice)
        made.append(construct("callback", component.id, component.load(), given, {"directory": directory}))
    return made


class OwnCallbacks(keras.callbacks.Callback):  # type: ignore[misc]
    """Passes on what Keras says, with the steps counted from the beginning of the run.

    Args:
        callbacks: Whom to tell.
        start: Step at which this process began.
        total: Last step of the run.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], start: int, total: int) -> None:
        super().__init__()
        self.callbacks, self.start, self.total = list(callbacks), start, total
        base = keras.callbacks.Callback
        self.sees_steps = any(getattr(type(c), m) is not getattr(base, m) for c in callbacks for m in SEES_STEPS)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self._tell("set_params", {**params, "steps": self.total})

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._tell("set_model", model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._tell("on_train_begin", logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._tell("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell("on_train_batch_begin", self.start + batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.sees_steps and hasattr(self.model, "jax_state_sync"):  # JAX's `fit` keeps the variables elsewhere
            self.model.jax_state_sync()
        self._tell("on_train_batch_end", self.start + batch, logs)

    def _tell(self, method: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            with component_errors(callback):
                getattr(callback, method)(*arguments)
