"""The attributes of a layer, some of which a backend stores in another place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

OF_KERAS = frozenset({*vars(keras.layers.Layer()), *vars(keras.Model())})
"""The attributes of every layer and model, in which Keras keeps its parts a second time."""

OF_TENSORFLOW = "_self_"
"""The prefix of attributes that TensorFlow adds to a layer."""


def own_attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """The attributes that a layer's own class has set, by name; {} for a functional or sequential model."""
    if isinstance(layer, keras.Sequential) or isinstance(getattr(type(layer), "operations", None), property):
        return {}
    held = vars(layer)
    everything = {**held, **held.get("_modules", {})}  # where PyTorch keeps the layers that are attributes
    return {k: v for k, v in everything.items() if k not in OF_KERAS and not k.startswith(OF_TENSORFLOW)}


def freeze_layer(layer: keras.layers.Layer) -> None:
    """Freezes a layer and all layers in it, also those that were made after the layer had been frozen.

    (`layer.trainable = False` does not reach them on TensorFlow, which skips an assignment that changes nothing.)
    """
    for part in layer._flatten_layers():
        part.trainable = False
        for variable in part._trainable_variables:
            variable.trainable = False


@contextmanager
def kept_trainable(layer: keras.layers.Layer) -> Iterator[None]:
    """Restores after the block which of a layer's inner layers and weights are trainable."""
    layers = [(part, part.trainable) for part in layer._flatten_layers()]
    weights = [(weight, weight.trainable) for weight in layer.weights]
    try:
        yield
    finally:
        for part, trainable in layers:
            part._trainable = trainable
        for weight, trainable in weights:
            weight.trainable = trainable


def shared_copy(layer: Any, **changed: Any) -> Any:
    """A copy of a layer that shares its weights and inner layers, with some attributes changed.

    (Keras does not support `copy.copy`.)
    """
    made = object.__new__(type(layer))
    made.__dict__.update(layer.__dict__, **changed)
    return made
