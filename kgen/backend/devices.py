"""What the hardware and the backend make worth while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kgen.backend.replicas import replica_count


def shared_batch(size: int) -> int:
    """The smallest batch size, `size` or more, that can be divided evenly among all devices.

    Keras divides every batch of `fit`, `evaluate` and `predict` among the devices of a `keras.distribution` (JAX) or of
    a tf.distribute strategy. JAX fails where a batch does not divide, and TensorFlow leaves a device without any rows:
    fill the batch up, and leave the filler out of what is made of it.
    """
    count = batch_devices()
    return -(-size // count) * count


def batch_devices() -> int:
    """The number of devices that share every batch; on TensorFlow, of the strategy whose scope is entered."""
    if keras.backend.backend() != "jax":
        return replica_count()
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return int(mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)])


def compile_training() -> bool:
    """Whether XLA should compile a training step: on a CPU, TensorFlow's own kernels train convolutions faster."""
    return keras.backend.backend() == "jax" or (keras.backend.backend() == "tensorflow" and _tensorflow_gpu())


def compile_sampling(steps: int = 1) -> bool:
    """Whether XLA should compile what is drawn in so many steps, one after the other.

    On a CPU too, TensorFlow's loops gain by it: a cached token costs down to a tenth. One step is no faster.
    """
    return compile_training() or (keras.backend.backend() == "tensorflow" and steps > 1)


def create_weights(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of tensors whose layers create their weights when they are called.

    JAX only traces it: computed outside of a program, each operation would be compiled by itself, which takes many
    times as long. A layer's weights must come from initializers, then; what its `build` assigns would be lost.

    Returns:
        What the function returns; on JAX, the shapes and types of these tensors, which another call takes as arguments.
    """
    if keras.backend.backend() != "jax":
        return function(*arguments)
    import jax

    def stateless(*traced: Any) -> Any:
        with keras.StatelessScope():
            return function(*traced)

    with keras.StatelessScope():  # gives the weights their values when it ends, which is after the tracing
        return jax.eval_shape(stateless, *arguments)


def as_graph(function: Callable[[], Any], wanted: bool = True) -> Callable[[], Any]:
    """On TensorFlow, `function` as one graph, if `wanted`: a function that loops many times is faster as a graph."""
    if not wanted or keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def _tensorflow_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
