"""Features of the networks of keras.applications."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field

from kgen import ConfigError
from kgen.backend.compiled import Compiled
from kgen_plugin_metrics.features.contract import BATCH, BICUBIC, described, hash_of_weights, resized


class KerasApplication:
    """The features of the last layer of a network, averaged over all positions. See `Features`.

    Args:
        application: A function of keras.applications, such as "MobileNetV2" or "ResNet50".
        weights: "imagenet", which Keras downloads, or the path of a file with weights, without the classifier.
        size: Height and width to which images are resized.

    Raises:
        ValueError: there is no such network.
    """

    name: str

    def __init__(
        self,
        *,
        application: str = "MobileNetV2",
        weights: str = "imagenet",
        size: Annotated[int, Field(ge=32, le=1024)] = 224,
    ) -> None:
        if not callable(getattr(keras.applications, application, None)):
            known = sorted(name for name in dir(keras.applications) if name[0].isupper())
            raise ValueError(f"keras.applications has no {application}: it has {', '.join(known)}")
        self.application, self.weights, self.size = application, weights, size
        self.name = f"keras-{application}"

    @property
    def dim(self) -> int:
        return int(self._network.output_shape[-1])

    @functools.cached_property
    def weights_hash(self) -> str:
        return hash_of_weights(self._network.weights)

    @property
    def protocol(self) -> Mapping[str, str]:
        scaling = "preprocess_input of the network"
        return described(self.name, self.weights_hash, BICUBIC.format(self.size), scaling)

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"features": self._program.run(resized(images, self.size), len(images), BATCH)}

    @functools.cached_property
    def _network(self) -> Any:
        make = getattr(keras.applications, self.application)
        if self.weights != "imagenet" and not Path(self.weights).is_file():
            raise ConfigError(f"features 'keras': weights: there is no file {self.weights}")
        try:
            return make(include_top=False, weights=self.weights, pooling="avg", input_shape=(self.size, self.size, 3))
        except Exception as error:  # Keras raises its own errors, those of h5py, and those of a failed download
            raise ConfigError(
                f"features 'keras': {self.application} with the weights '{self.weights}' cannot be made: {error}"
            ) from error

    @functools.cached_property
    def _program(self) -> Compiled:
        network = self._network
        prepare = sys.modules[getattr(keras.applications, self.application).__module__].preprocess_input
        return Compiled(lambda pixels: network(prepare(ops.cast(pixels, "float32")), training=False), [network])
