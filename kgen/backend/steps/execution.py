"""Several training steps in one call of the training function, which needs less time between the steps.

Keras's `fit` calls its callbacks after each call of the training function. With `steps_per_execution`, a call takes
several batches. On JAX, the steps are a loop in one compiled program here, where Keras calls the program of one step
several times. On PyTorch, Keras refuses several steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

Model = Any
State = Any
Logs = Any
Batch = Any
OnJax = Callable[[State, Iterator[Batch]], tuple[Logs, State]]


@contextmanager
def one_step_per_execution(model: Model) -> Iterator[None]:
    """In the block, a call of a training or test function of a Keras model takes one batch."""
    steps, model.steps_per_execution = model.steps_per_execution, 1
    try:
        yield
    finally:
        model.steps_per_execution = steps


def several_steps(model: Model, one: Callable[..., Any]) -> Callable[..., Any]:
    """A training function that trains `model.steps_per_execution` steps, one batch each, and returns the last logs.

    The steps are the same as in as many calls, bit for bit. If fewer batches are left, it trains on these.

    Args:
        model: The model.
        one: The training function for one step: `model.steps_per_execution` was 1 when it was made.
    """
    if model.steps_per_execution == 1:
        return one
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow_function(model, one)
    return _jax_function(model, one) if backend == "jax" else _torch_function(one)


def _tensorflow_function(model: Model, one: Callable[[Iterator[Batch]], Logs]) -> Callable[[Iterator[Batch]], Logs]:
    """Calls the program of one step several times. In a loop inside of a program, TensorFlow would optimize the step in
    another way, with other rounding errors, and replicas could not communicate."""
    import tensorflow as tf

    count = model.steps_per_execution

    def function(iterator: Iterator[Batch]) -> Logs:
        logs = None
        sources: Iterator[Iterator[Batch]]
        if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            sources = itertools.repeat(iterator, count)
        else:
            sources = (iter([batch]) for batch in itertools.islice(iterator, count))
        with one_step_per_execution(model):
            for source in sources:
                try:
                    logs = one(source)
                except (StopIteration, tf.errors.OutOfRangeError):
                    if logs is None:
                        raise  # Keras ends the epoch
                    break
        return logs

    return function


def _torch_function(one: Callable[[Sequence[Batch]], Logs]) -> Callable[[Sequence[Batch]], Logs]:
    def function(batches: Sequence[Batch]) -> Logs:
        logs = None
        for batch in batches:
            logs = one([batch])
        return logs

    return function


def _jax_function(model: Model, one: OnJax) -> OnJax:
    """Here, the steps are a loop in one compiled program, unless their batches differ in shape."""
    import jax

    count = model.steps_per_execution

    def loop(state: State, batches: Sequence[Batch]) -> tuple[Logs, State]:
        structure = jax.tree.structure(state)

        def step(state: State, batch: Batch) -> tuple[State, Logs]:
            logs, state = model.train_step(state, batch)
            return jax.tree.unflatten(structure, jax.tree.leaves(state)), logs

        stacked = jax.tree.map(lambda *arrays: jax.numpy.stack(arrays), *batches)
        state, logs = jax.lax.scan(step, state, stacked)
        return jax.tree.map(lambda values: values[-1], logs), state

    compiled = not model.run_eagerly and model.jit_compile
    if compiled:
        distributed = keras.distribution.distribution() is not None
        shardings = (None, model._get_state_sharding_spec()) if distributed else None
        loop = jax.jit(loop, donate_argnums=0, out_shardings=shardings)

    def function(state: State, iterator: Iterator[Batch]) -> tuple[Logs, State]:
        batches = [next(iterator), *itertools.islice(iterator, count - 1)]
        if compiled and len(batches) == count and len({_shapes(batch) for batch in batches}) == 1:
            return loop(state, batches)
        logs = None
        for batch in batches:
            logs, state = one(state, iter([batch]))
        return logs, state

    return function


def _shapes(batch: Batch) -> tuple[Any, ...]:
    return tuple(array.shape for array in keras.tree.flatten(batch) if array is not None)
