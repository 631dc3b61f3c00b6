"""The options of quantizers, which turn the encoder network's vectors into tokens: ``quantizer: {kind: fsq}``.

`build` makes the layer. A quantizer of D dimensions and `vocabulary` codes is called as
``quantizer(z (B, h, w, D), training) -> (quantized (B, h, w, D), codes (B, h, w) int32, commitment (B,))``,
where the gradient of the quantized vectors passes straight through to z (Bengio et al. 2013). It has
``quantizer.lookup(codes) -> (B, h, w, D)``. If it has a method `start_from`, this gets vectors (N, D) before training.

Any plugin can add one: ``registry.add("codecs.quantizer", "mine", "package.module:Mine", summary=...)``. The target is
a class with the members of `Quantizer`, such as a frozen dataclass whose fields are its options.
"""

from __future__ import annotations

from typing import Protocol

import keras

from kgen_plugin_codecs.quantizers.finite_scalar import FiniteScalar
from kgen_plugin_codecs.quantizers.vector import Vector


class Quantizer(Protocol):
    """The protocol of a `codecs.quantizer`: the options of a quantizer, from which `build` makes the layer."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""

    @property
    def vocabulary(self) -> int:
        """Number of codes."""

    def build(self) -> keras.layers.Layer:
        """Makes the layer, in float32."""


__all__ = ["FiniteScalar", "Quantizer", "Vector"]
