"""Determines which weights of a model a training changes: `trainable`, `frozen` and `lora` of `fit` in a run file."""

from __future__ import annotations

import keras

from kgen.config import FitConfig
from kgen.parts.freezing import freeze
from kgen.parts.lora import add_lora, lora_targets


def select_trained(model: keras.Model, fit: FitConfig) -> None:
    """Freezes the weights that a training does not change, and adds LoRA if `fit` has it.

    The model must have the weights with which its training starts, because LoRA changes their paths.

    Raises:
        ConfigError: a pattern matches nothing, or no weight is left to train.
    """
    if fit.lora is None:
        freeze(model, fit.frozen, trainable=fit.trainable)
    else:
        add_lora(model, fit.lora.rank, alpha=fit.lora.alpha, targets=fit.lora.targets)


def try_selection(model: keras.Model, fit: FitConfig) -> None:
    """Like `select_trained`, but it does not add LoRA. It raises the same errors."""
    if fit.lora is None:
        freeze(model, fit.frozen, trainable=fit.trainable)
    else:
        lora_targets(model, fit.lora.targets)
