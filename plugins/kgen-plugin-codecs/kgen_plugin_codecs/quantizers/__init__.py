"""What turns the analysis's vectors into tokens, as options: a configuration says ``quantizer: {kind: fsq}``.

`build` makes the layer. A quantiser of D numbers a position and `vocabulary` codes gives
``quantizer(z (B, h, w, D), training) -> (quantised (B, h, w, D), codes (B, h, w) int32, commitment (B,))``,
the gradient of the quantised vectors going straight through to z (Bengio et al. 2013); and
``quantizer.lookup(codes) -> (B, h, w, D)``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kgen_plugin_codecs.quantizers.finite_scalar import FiniteScalar
from kgen_plugin_codecs.quantizers.vector import Vector

Quantizer = Annotated[Vector | FiniteScalar, Field(discriminator="kind")]
"""The type of an option that takes any quantiser."""

__all__ = ["FiniteScalar", "Quantizer", "Vector"]
