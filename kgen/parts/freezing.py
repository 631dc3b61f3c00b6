"""Freezes weights of a model while the rest is trained."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kgen.backend.attributes import freeze_layer
from kgen.errors import ConfigError
from kgen.parts.patterns import ALL, check_patterns, select
from kgen.storage.paths import weight_paths


def freeze(model: keras.Model, frozen: Sequence[str] = (), *, trainable: Sequence[str] = ALL) -> list[str]:
    """Freezes weights of a pipeline, so that training does not change them.

    Call it before `compile`. A layer whose weights are all frozen is frozen itself (`layer.trainable = False`), so that
    it updates no statistics either. If the whole encoder is frozen, a run encodes each caption only once. Weights that
    are already frozen stay frozen.

    Args:
        model: A `Pipeline`, or another model that has parts as attributes.
        frozen: Patterns of the paths of weights, such as ["encoder/*"]: see `kgen.weight_paths`.
        trainable: Patterns of the weights that stay trainable, unless `frozen` matches them; all others are frozen.

    Returns:
        The paths of the weights that this call has frozen, in alphabetical order.

    Raises:
        ConfigError: a pattern matches no weight; no trainable weight is left; or the model is already compiled.
    """
    if getattr(model, "compiled", False):
        raise ConfigError("freeze weights before compile: the optimizer of a compiled model already has its weights")
    paths = weight_paths(model, model.weights)
    check_patterns("frozen", frozen, paths)
    check_patterns("trainable", trainable, paths)
    kept = set(select(paths, trainable, frozen))
    if not any(paths[path].trainable for path in kept):
        raise ConfigError("no weight is left to train: freeze fewer weights, or make more of them trainable")
    before = {path for path, weight in paths.items() if weight.trainable}
    trained = {id(paths[path]) for path in kept}
    for layer in model.layers:
        _freeze(layer, trained)
    return sorted(path for path in before if not paths[path].trainable)


def _freeze(layer: keras.layers.Layer, trained: set[int]) -> None:
    """Freezes all weights of a layer and of the layers in it, except those in `trained`."""
    if layer.weights and not any(id(weight) in trained for weight in layer.weights):
        freeze_layer(layer)
        return
    for weight in layer._trainable_variables:
        if id(weight) not in trained:
            weight.trainable = False
    for below in layer._flatten_layers(include_self=False, recursive=False):
        _freeze(below, trained)
