"""Two replicas of tf.distribute on one CPU, which behave like two accelerators."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kgen.backend.gradients import dense
from kgen.testing.execution import Tree, arrays, tensors

REPLICAS = 2


def prepare() -> None:
    """Divides TensorFlow's CPU into devices, if it has not started yet, and turns off the optimization of graphs.

    Optimizing a small graph takes longer than running it a few times. On other backends, this does nothing.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # it has started; `mirrored` says so
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@functools.cache  # two strategies in one process mix up their reductions
def mirrored() -> Any:
    """A tf.distribute.MirroredStrategy of `REPLICAS` CPU devices."""
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == REPLICAS, "import kgen.testing before TensorFlow computes anything: it divides the CPU"
    return tf.distribute.MirroredStrategy(devices)


def copies(strategy: Any, variable: Any) -> list[Any]:
    """The values of a Keras variable on each replica, as arrays."""
    return [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]


class ReplicaTraining:
    """Plain gradient descent on both replicas, each with its own part of the batch. The step is traced once.

    Args:
        strategy: The strategy under whose scope the layer was built.
        layer: A layer that has all its weights.
        losses: Maps a batch of tensors to losses per example, by name, including "loss".
    """

    def __init__(self, strategy: Any, layer: keras.layers.Layer, losses: Callable[[Tree], dict[str, Any]]) -> None:
        import tensorflow as tf

        self.strategy = strategy
        self.layer = layer

        def step(batch: Tree) -> tuple[dict[str, Any], list[Any]]:
            with tf.GradientTape() as tape:
                found = losses(batch)
                value = ops.mean(found["loss"])
            variables = [variable.value for variable in layer.trainable_variables]
            return found, [dense(part) for part in tape.gradient(value, variables, unconnected_gradients="zero")]

        self._run = tf.function(lambda batch: strategy.run(step, args=(batch,)), autograph=False)

    def step(self, parts: Sequence[Tree], rate: float) -> list[dict[str, Any]]:
        """Trains every replica on its part of the batch.

        Returns:
            The losses of each replica's examples.
        """
        strategy = self.strategy
        batch = strategy.experimental_distribute_values_from_function(
            lambda context: tensors(parts[context.replica_id_in_sync_group])
        )
        losses, found = self._run(batch)
        for variable, gradient in zip(self.layer.trainable_variables, found, strict=True):
            variable.value.assign_sub(rate * strategy.reduce("MEAN", gradient, axis=None))
        values = {name: strategy.experimental_local_results(value) for name, value in losses.items()}
        return [{name: arrays(value[index]) for name, value in values.items()} for index in range(REPLICAS)]
