"""The callbacks that a training accepts: subclasses of `keras.callbacks.Callback`, except those that duplicate kgen.

A plugin registers a callback with `registry.callback`, and a run file names it: ``fit: {callbacks: [mine, {name: other,
every: 10}]}``. The options of a callback follow the ``*`` of its constructor. If the constructor has an argument
`directory` before the ``*``, kgen supplies the directory of the training, a `pathlib.Path`: the run directory, or its
folder `decoder` for the training of a decoder.

A training is one Keras epoch. `batch` counts the steps of the whole run: 0 is the first step, and a resumed training
continues the count. In `on_train_batch_end`, `logs` contains the mean losses since the last row of metrics.csv, and the
model's variables are current on every backend. A callback that sets ``self.model.stop_training = True`` ends the
training after that step; the run then continues with the final images and scores. kgen does not save the state of a
callback: a callback that needs its state after a resume writes it to the directory.
"""

from __future__ import annotations

import re
from typing import Any

INSTEAD = {
    "BackupAndRestore": "a run resumes from its own checkpoints (fit.checkpoint_every)",
    "CSVLogger": "a run writes metrics.csv every fit.log_every steps",
    "EarlyStopping": "it acts after an epoch, and a training is a single epoch; write a callback that sets "
    "self.model.stop_training in on_train_batch_end",
    "LambdaCallback": "a run file cannot contain functions; write a subclass of keras.callbacks.Callback",
    "LearningRateScheduler": "fit.learning_rate, fit.warmup_steps and fit.schedule set the learning rate",
    "ModelCheckpoint": "a run writes checkpoints itself (fit.checkpoint_every, fit.keep)",
    "ProgbarLogger": "a run shows its progress itself",
    "ReduceLROnPlateau": "fit.learning_rate, fit.warmup_steps and fit.schedule set the learning rate",
    "SwapEMAWeights": "a run averages the weights itself (fit.ema)",
    "TensorBoard": "TensorBoard is a logger: write loggers: [tensorboard]",
    "TerminateOnNaN": "a run stops when the loss is not finite, and keeps the last good checkpoint",
}
"""For each callback of Keras that kgen does not accept: why, and what to use instead."""


def refusal(callback: str | type[Any]) -> str:
    """Returns why kgen does not accept a callback, or "" if it does.

    Args:
        callback: A class; or a name from a run file, which is compared with the names of Keras's classes.
    """
    if isinstance(callback, str):
        known = {re.sub(r"[^a-z]", "", name.lower()): name for name in INSTEAD}
        name = known.get(re.sub(r"[^a-z]", "", callback.lower().removeprefix("keras/")))
        return f"kgen does not accept Keras's {name}: {INSTEAD[name]}" if name else ""
    for base in callback.__mro__:
        if base.__module__.startswith("keras.") and base.__name__ in INSTEAD:
            return f"is a subclass of Keras's {base.__name__}, which kgen does not accept: {INSTEAD[base.__name__]}"
    return ""
