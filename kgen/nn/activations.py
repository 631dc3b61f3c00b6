"""GELU (Hendrycks and Gimpel 2016), and the gated activations of Shazeer (2020), "GLU variants improve transformer".

They are those of Keras, and faster to train on TensorFlow's CPU.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.backend.steps.elementwise import in_one_pass

Tensor = Any


@in_one_pass
def gelu(x: Tensor) -> Tensor:
    """``x * P(X <= x)``, where X has a standard normal distribution."""
    return ops.gelu(x, approximate=False)


@in_one_pass
def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of `gelu` with a tanh (section 2)."""
    return ops.gelu(x, approximate=True)


@in_one_pass
def geglu(value: Tensor, gate: Tensor) -> Tensor:
    """``value * gelu(gate)`` (equation 5, GEGLU)."""
    return value * ops.gelu(gate, approximate=False)


@in_one_pass
def swiglu(value: Tensor, gate: Tensor) -> Tensor:
    """``value * silu(gate)`` (equation 5, SwiGLU)."""
    return value * ops.silu(gate)
