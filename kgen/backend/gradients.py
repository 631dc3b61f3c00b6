"""Converts sparse gradients to dense ones, so that all optimizers treat them correctly, and runs without gradients."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import keras

_registered: ContextVar[bool] = ContextVar("registered", default=True)


def dense(gradient: Any) -> Any:
    """A gradient as one tensor of the shape of its variable; None stays None.

    On TensorFlow, the gradient of a table whose rows are looked up (an embedding, `ops.take`) is a `tf.IndexedSlices`:
    a list of rows, in which a row that was looked up twice occurs twice. Norms, and the squares of Adam, must be
    computed from the sum of such rows.
    """
    if gradient is None or keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)


def no_gradients() -> AbstractContextManager[Any]:
    """A context in which PyTorch keeps no intermediate results for gradients, which take much memory in long loops."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()  # type: ignore[no-any-return]


@contextlib.contextmanager
def no_registered_gradients() -> Iterator[None]:
    """Removes the gradients that TensorFlow registers in the block. Graphs that are traced in it can have no gradients.

    For each SiLU of a graph, as for everything that `tf.custom_gradient` makes, TensorFlow registers a function for the
    life of the process. This function refers to the graph, which could therefore never be deleted. No other thread may
    trace a graph that needs gradients at the same time.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework import ops

    registered = getattr(getattr(ops, "gradient_registry", None), "_registry", {})  # a later release may have another
    before = set(registered)
    token = _registered.set(False)
    try:
        yield
    finally:
        _registered.reset(token)
        for name in registered.keys() - before:
            del registered[name]


def gradients_registered() -> bool:
    """Whether the graph that TensorFlow traces now can have gradients: see `no_registered_gradients`."""
    return _registered.get()


def densify(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer sum the rows of sparse gradients before it clips, accumulates or squares them."""
    if keras.backend.backend() == "tensorflow":
        optimizer.apply = functools.partial(_apply, optimizer)


def _apply(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
    return type(optimizer).apply(optimizer, [dense(gradient) for gradient in grads], trainable_variables)
