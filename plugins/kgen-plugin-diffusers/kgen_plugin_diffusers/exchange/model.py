"""A model or a scheduler of diffusers, as it is written to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from safetensors.numpy import save_file

import kgen
from kgen_plugin_diffusers.folder import CONFIG, WEIGHTS
from kgen_plugin_diffusers.names import source


@dataclass(frozen=True)
class Model:
    """A model of diffusers: a configuration, and tensors; or a scheduler, which has no tensors.

    Args:
        cls: The name of the class in diffusers.
        part: The folder of the model in that of a pipeline, such as "vae".
        config: The configuration, without `_class_name`.
        tensors: The tensors by diffusers' names, float32.
        notes: What the model card says about the use of the model, in Markdown.
        file: The name of the configuration's file.
    """

    cls: str
    part: str
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    notes: str = ""
    file: str = CONFIG

    def save(self, folder: Path) -> None:
        """Makes a folder with the configuration and the weights."""
        folder.mkdir(parents=True)
        text = json.dumps({"_class_name": self.cls, **self.config}, indent=2, sort_keys=True)
        (folder / self.file).write_text(text + "\n", encoding="utf-8")
        if self.tensors:
            save_file(dict(self.tensors), folder / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})


def convert(part: Any) -> Model | None:
    """The contract of a `diffusers.model`: turns a trained part of a pipeline into a model of diffusers.

    Any plugin can add one: ``registry.add("diffusers.model", "mine", "package.module:function", summary=...)``.

    Args:
        part: An encoder, a generator or a decoder, with its weights.

    Returns:
        A model that computes the same; None if the function does not know such parts.

    Raises:
        ConfigError: the function knows such parts, but diffusers' class cannot compute the same. The message says why.
    """
    raise NotImplementedError


def tensors_of(layer: keras.layers.Layer, place: Callable[[str], str] = lambda path: path) -> dict[str, np.ndarray]:
    """The weights of a layer by diffusers' names, float32.

    Args:
        layer: The layer.
        place: From the path of a weight in the layer, makes that in a layer whose attributes have the names of
            diffusers' modules. By default, the layer is such a layer.
    """
    tensors: dict[str, np.ndarray] = {}
    for path, variable in kgen.weight_paths(layer, layer.weights).items():
        weight = np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32")))
        tensors |= source(place(path), variable).restore(weight)
    return tensors
