"""Training and evaluation on batches that differ in shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

Step = Callable[[Any], Any]


def by_shape(model: keras.Model, whole: Callable[[Any], Any], step: Step) -> Callable[[Any], Any]:
    """A function of an iterator of batches, like Keras's `whole`, that knows the shapes of each batch on TensorFlow.

    Keras's function takes the batch inside of its graph. If batches differ in more than their number of rows, the
    shapes are therefore unknown there, and the graph that Keras compiles next fits all shapes. Here, the batch is taken
    outside, and TensorFlow compiles one program for each shape. Other backends know the shapes of each batch anyway.

    Args:
        model: The model, which says how to compile.
        whole: Keras's function.
        step: The step of a batch, such as `model.train_step`.
    """
    if keras.backend.backend() != "tensorflow":
        return whole
    import tensorflow as tf

    program = step if model.run_eagerly else tf.function(step, autograph=False, jit_compile=model.jit_compile)

    def function(iterator: Iterator[Any]) -> Any:
        if not isinstance(iterator, tf.data.Iterator) or not _differ(iterator.element_spec):
            return whole(iterator)
        logs = None
        for batch in itertools.islice(iterator, model.steps_per_execution):
            logs = program(batch)
        if logs is None:
            raise StopIteration  # Keras ends the epoch
        return logs

    return function


def _differ(spec: Any) -> bool:
    """Whether batches of a specification may differ in more than their number of rows."""
    import tensorflow as tf

    return any(None in tensor.shape[1:] for tensor in tf.nest.flatten(spec) if isinstance(tensor, tf.TensorSpec))
