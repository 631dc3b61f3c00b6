"""Gradients in the form in which every optimizer treats them alike."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras


def dense(gradient: Any) -> Any:
    """A gradient as one tensor of its variable's shape; None stays None.

    On TensorFlow, the gradient of a table whose rows are looked up (an embedding, `ops.take`) is a `tf.IndexedSlices`:
    a list of rows, in which a row that was looked up twice stands twice. A norm, or Adam's squares, must see their sum.
    """
    if gradient is None or keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)


def densify(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer add up the rows of sparse gradients before it clips, accumulates or squares them."""
    if keras.backend.backend() == "tensorflow":
        optimizer.apply = functools.partial(_apply, optimizer)


def _apply(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
    return type(optimizer).apply(optimizer, [dense(gradient) for gradient in grads], trainable_variables)
