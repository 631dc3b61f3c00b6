"""Creates and calls the callbacks that a run file names. `kgen.contracts.callback` is their contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kgen.config import ComponentConfig
from kgen.parts.construction import construct, find
from kgen.plugins.faults import component_errors

STEP_METHODS = ("on_train_batch_end", "on_batch_end")
"""The methods that Keras calls after a step."""


def make_callbacks(choices: Sequence[ComponentConfig], directory: Path) -> list[keras.callbacks.Callback]:
    """Creates the callbacks of a `fit` section.

    Args:
        choices: The callbacks.
        directory: The directory of the training.

    Raises:
        ConfigError: an option is wrong. PluginError: a callback cannot be imported or created.
    """
    made = []
    for choice in choices:
        component, given = find("callback", choice.choice)
        made.append(construct("callback", component.id, component.load(), given, {"directory": directory}))
    return made


class OwnCallbacks(keras.callbacks.Callback):  # type: ignore[misc]
    """Passes the calls of Keras on to other callbacks, with steps that are counted from the beginning of the run.

    Args:
        callbacks: The other callbacks.
        start: The step at which this process began.
        total: The last step of the run.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], start: int, total: int) -> None:
        super().__init__()
        self.callbacks, self.start, self.total = list(callbacks), start, total
        base = keras.callbacks.Callback
        self.sees_steps = any(getattr(type(c), m) is not getattr(base, m) for c in callbacks for m in STEP_METHODS)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self._call("set_params", {**params, "steps": self.total})

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._call("set_model", model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._call("on_train_begin", logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._call("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._call("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._call("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._call("on_train_batch_begin", self.start + batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.sees_steps and hasattr(self.model, "jax_state_sync"):  # on JAX, `fit` keeps the values elsewhere
            self.model.jax_state_sync()
        self._call("on_train_batch_end", self.start + batch, logs)

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            with component_errors(callback):
                getattr(callback, method)(*arguments)
