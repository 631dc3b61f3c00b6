"""What was assigned to a layer's attributes, where a backend keeps a part of it elsewhere."""

from __future__ import annotations

from typing import Any

import keras

OF_KERAS = frozenset({*vars(keras.layers.Layer()), *vars(keras.Model())})
"""Attributes of every layer and model, which hold its parts a second time."""

OF_TENSORFLOW = "_self_"
"""How the names of the attributes begin that TensorFlow adds to a layer."""


def own_attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """The attributes of a layer that its own class has set, by name; of a model made of a graph of layers, none."""
    if isinstance(layer, keras.Sequential) or isinstance(getattr(type(layer), "operations", None), property):
        return {}
    held = vars(layer)
    everything = {**held, **held.get("_modules", {})}  # where PyTorch keeps the layers that are attributes
    return {k: v for k, v in everything.items() if k not in OF_KERAS and not k.startswith(OF_TENSORFLOW)}
