"""Elementwise functions that are computed in one pass over memory.

TensorFlow without XLA computes each operation of an expression as a pass of its own, which reads and writes a whole
array. On a CPU, the twenty passes of a GELU and its gradient took 13% of a DiT's training step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras

from kgen.backend.devices import accelerators
from kgen.backend.gradients import gradients_registered

Tensor = Any

MIN_NUMBERS = 2**14
"""Rows of a batch with fewer numbers are left to TensorFlow: XLA would save less time than it takes to compile."""


def in_one_pass(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes an elementwise function fast to train on TensorFlow's CPU.

    XLA compiles the function and its gradient, which computes the function again from its arguments.

    In these cases, the function is called as it is: on an accelerator and on JAX, where XLA compiles the whole program;
    on PyTorch, which has a kernel for each activation; in eager execution; in programs without gradients; and for small
    arrays.

    Args:
        function: An elementwise function of tensors of one type and one shape, made of Keras's operations. It reads no
            variables.
    """
    compiled = functools.cache(lambda: _compiled(function))

    @functools.wraps(function)
    def call(*tensors: Tensor) -> Tensor:
        return compiled()(*tensors) if _needs_xla(tensors[0]) else function(*tensors)

    return call


def _needs_xla(x: Tensor) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return (
        isinstance(x, tf.Tensor)  # and no symbolic tensor of Keras
        and not tf.executing_eagerly()
        and gradients_registered()
        and math.prod(size or 1 for size in x.shape[1:]) >= MIN_NUMBERS
        and not accelerators()
    )


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import tensorflow as tf

    forward = tf.function(function, autograph=False, jit_compile=True)

    @tf.function(autograph=False, jit_compile=True)  # type: ignore[untyped-decorator]
    def backward(gradient: Tensor, *tensors: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return tape.gradient(value, tensors, gradient)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def call(*tensors: Tensor) -> Any:
        return forward(*tensors), lambda gradient: backward(gradient, *tensors)

    return call  # type: ignore[no-any-return]
