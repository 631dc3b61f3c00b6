"""Training and evaluation on batches whose images differ in height and width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

Step = Callable[[Any], Any]


def by_shape(model: keras.Model, whole: Callable[[Any], Any], step: Step) -> Callable[[Any], Any]:
    """A function that replaces Keras's training or test function. It compiles one program for each shape of a batch.

    A call takes one batch. On TensorFlow, Keras's function reads it inside of its graph, where the shapes are unknown
    if batches differ in more than their number of rows. This function reads it outside of the graph, so that the step
    has static shapes. On other backends, Keras's function already has them.

    Args:
        model: The model. Its settings of `compile` say how to compile the step.
        whole: Keras's function, which takes an iterator of batches.
        step: The step for one batch, such as `model.train_step`.
    """
    if keras.backend.backend() != "tensorflow":
        return whole
    import tensorflow as tf

    program = step if model.run_eagerly else tf.function(step, autograph=False, jit_compile=model.jit_compile)

    def function(iterator: Iterator[Any]) -> Any:
        if not isinstance(iterator, tf.data.Iterator) or not _differ(iterator.element_spec):
            return whole(iterator)
        return program(next(iterator))

    return function


def _differ(spec: Any) -> bool:
    """Whether batches may differ in more than their number of rows, given their `tf.TensorSpec`."""
    import tensorflow as tf

    return any(None in tensor.shape[1:] for tensor in tf.nest.flatten(spec) if isinstance(tensor, tf.TensorSpec))
