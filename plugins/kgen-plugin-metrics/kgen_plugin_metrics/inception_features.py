"""Features of the Inception network of 2015, which FID, KID and the inception score are defined by."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kgen_plugin_metrics.features import in_batches

Implementation = Literal["torch-fidelity", "pytorch-fid", "clean"]
"""The implementation whose resizing, scaling and weights' layout are followed exactly."""


class InceptionFeatures:
    """The 2048 features of the last pooling layer, and the 1008 logits with and without a bias. See `Features`.

    Args:
        weights: The file with the public weights of the implementation.
        implementation: The one to follow: see the README.
    """

    dim = 2048

    def __init__(self, *, weights: str, implementation: Implementation = "torch-fidelity") -> None:
        self.weights, self.implementation = weights, implementation

    @property
    def name(self) -> str:
        return str(self._network.name)

    @property
    def weights_hash(self) -> str:
        return str(self._network.weights_hash)

    @property
    def protocol(self) -> Mapping[str, str]:
        return dict(self._network.protocol)

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return in_batches(self._network, images)

    @functools.cached_property
    def _network(self) -> Any:
        return _inception(self.weights, self.implementation)


@functools.lru_cache(maxsize=2)
def _inception(weights: str, implementation: str) -> Any:
    """The network, which all metrics share."""
    from kgen_plugin_metrics.inception import Inception

    return Inception(weights, implementation)
