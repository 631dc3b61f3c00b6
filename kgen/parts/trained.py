"""Determines how a training changes weights: `trainable`, `frozen`, `lora` and `learning_rates` of `fit`."""

from __future__ import annotations

from typing import Any

import keras

from kgen.config import FitConfig
from kgen.parts.freezing import freeze
from kgen.parts.lora import add_lora, lora_targets
from kgen.parts.patterns import check_patterns, matches
from kgen.storage.paths import weight_paths


def select_trained(model: keras.Model, fit: FitConfig) -> None:
    """Freezes the weights that a training does not change, adds LoRA, and sets learning rates, as `fit` says.

    The model must have the weights with which its training starts, because LoRA changes their paths.

    Raises:
        ConfigError: a pattern matches nothing, or no weight is left to train.
    """
    if fit.lora is None:
        freeze(model, fit.frozen, trainable=fit.trainable)
    else:
        add_lora(model, fit.lora.rank, alpha=fit.lora.alpha, targets=fit.lora.targets)
    for weight, factor in _factors(model, fit):
        weight.learning_rate_share = getattr(weight, "learning_rate_share", 1.0) * factor


def try_selection(model: keras.Model, fit: FitConfig) -> None:
    """Like `select_trained`, but it neither adds LoRA nor sets learning rates. It raises the same errors."""
    if fit.lora is None:
        freeze(model, fit.frozen, trainable=fit.trainable)
        _factors(model, fit)
    else:
        lora_targets(model, fit.lora.targets)


def _factors(model: keras.Model, fit: FitConfig) -> list[tuple[Any, float]]:
    """The trained weights with another learning rate, and its factor."""
    rates = fit.learning_rates or {}
    paths = weight_paths(model, [weight for weight in model.weights if weight.trainable])
    check_patterns("learning_rates", tuple(rates), paths)
    found = {path: factor for pattern, factor in rates.items() for path in paths if matches(path, [pattern])}
    return [(paths[path], factor) for path, factor in found.items()]
