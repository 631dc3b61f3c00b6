"""A model of diffusers, as it is written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    """A model of diffusers: a configuration, and tensors.

    Args:
        cls: The name of the class in diffusers.
        part: The folder of the model in that of a pipeline, such as "vae".
        config: The configuration, without `_class_name`.
        tensors: The tensors by diffusers' names, float32.
    """

    cls: str
    part: str
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]

    def save(self, folder: Path) -> None:
        """Writes the configuration and the weights to a folder."""
        folder.mkdir(parents=True)
        text = json.dumps({"_class_name": self.cls, **self.config}, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
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


def tensors_of(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """The weights of a layer whose attributes have the names of diffusers' modules, by diffusers' names, float32."""
    tensors: dict[str, np.ndarray] = {}
    for path, variable in kgen.weight_paths(layer, layer.weights).items():
        weight = np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32")))
        tensors |= source(path, variable).restore(weight)
    return tensors
