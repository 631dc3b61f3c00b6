"""What turns the analysis's vectors into tokens, as options: a configuration says ``quantizer: {kind: fsq}``.

`build` makes the layer. A quantizer of D numbers a position and `vocabulary` codes gives
``quantizer(z (B, h, w, D), training) -> (quantized (B, h, w, D), codes (B, h, w) int32, commitment (B,))``,
the gradient of the quantized vectors going straight through to z (Bengio et al. 2013); and
``quantizer.lookup(codes) -> (B, h, w, D)``. A layer with a method `start_from` gets vectors (N, D) before the training.

Every plugin can add one: ``registry.add("codecs.quantizer", "mine", "package.module:Mine", summary=...)``, a class with
the members of `Quantizer`, such as a frozen dataclass whose fields are the options.
"""

from __future__ import annotations

from typing import Protocol

import keras

from kgen_plugin_codecs.quantizers.finite_scalar import FiniteScalar
from kgen_plugin_codecs.quantizers.vector import Vector


class Quantizer(Protocol):
    """What a `codecs.quantizer` is: the options of a quantizer, of which `build` makes the layer."""

    @property
    def dim(self) -> int:
        """Numbers of a position."""

    @property
    def vocabulary(self) -> int:
        """How many codes there are."""

    def build(self) -> keras.layers.Layer:
        """Makes the layer, float32."""


__all__ = ["FiniteScalar", "Quantizer", "Vector"]
