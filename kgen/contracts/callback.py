"""Which callbacks a training takes: any `keras.callbacks.Callback` that does not do what kgen does itself.

A plugin registers a callback (`registry.callback`), and a run file names it: ``fit: {callbacks: [mine, {name: other,
every: 10}]}``. Its options stand after a ``*`` in its constructor. An argument `directory` before that is supplied: the
directory of the training, a `pathlib.Path` (of the run, or its folder `decoder` for the stage of the decoder).

A training is one epoch. `batch` counts the steps from the beginning of the run, in whichever process: `batch` 0 is the
first step of all, and a resumed training goes on with the number of its next one. In `on_train_batch_end`, `logs` holds
the mean losses since the last row of the journal, and the model's variables are up to date on every backend. A callback
that sets ``self.model.stop_training = True`` ends the training after that step, as if `fit.steps` had been as few.
kgen saves no state of a callback: one that has some keeps it in the directory.
"""

from __future__ import annotations

import re
from typing import Any

INSTEAD = {
    "BackupAndRestore": "kgen resumes by itself, from the checkpoints of fit.checkpoint_every",
    "CSVLogger": "kgen writes metrics.csv by itself, every fit.log_every steps",
    "EarlyStopping": "a training is one epoch, so it would never act: write a callback that sets "
    "self.model.stop_training in on_train_batch_end",
    "LambdaCallback": "a run file holds no functions: write a subclass of keras.callbacks.Callback",
    "LearningRateScheduler": "fit.learning_rate, fit.warmup_steps and fit.schedule set the learning rate",
    "ModelCheckpoint": "kgen writes checkpoints by itself: fit.checkpoint_every and fit.keep",
    "ProgbarLogger": "kgen shows the progress by itself",
    "ReduceLROnPlateau": "fit.learning_rate, fit.warmup_steps and fit.schedule set the learning rate",
    "SwapEMAWeights": "kgen averages the weights by itself: fit.ema",
    "TensorBoard": "it is a logger: write loggers: [tensorboard]",
    "TerminateOnNaN": "kgen stops by itself where the loss is not finite, and keeps the last good checkpoint",
}
"""What to do instead of a callback of Keras, by the name of its class."""


def refusal(callback: str | type[Any]) -> str:
    """Why a callback is not taken; "" where it is.

    Args:
        callback: A class; or a name from a run file, which may be that of a class of Keras, however it is written.
    """
    if isinstance(callback, str):
        named = {re.sub(r"[^a-z]", "", name.lower()): name for name in INSTEAD}
        name = named.get(re.sub(r"[^a-z]", "", callback.lower().removeprefix("keras/")))
        return f"'{callback}' is a callback of Keras that is not taken: {INSTEAD[name]}" if name else ""
    for base in callback.__mro__:
        if base.__module__.startswith("keras.") and base.__name__ in INSTEAD:
            return f"is a {base.__name__} of Keras, which is not taken: {INSTEAD[base.__name__]}"
    return ""
