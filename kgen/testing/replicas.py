"""Two replicas on one CPU: tf.distribute as it is on a machine with two accelerators."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras

REPLICAS = 2


def split_cpu() -> None:
    """Divides TensorFlow's CPU into devices; does nothing where TensorFlow is not used or has started already."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # it has started; `mirrored` says so
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)


@functools.cache  # two strategies in one process mix up their reductions
def mirrored() -> Any:
    """A tf.distribute.MirroredStrategy of `REPLICAS` CPU devices."""
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == REPLICAS, "import kgen.testing before TensorFlow computes anything: it divides the CPU"
    return tf.distribute.MirroredStrategy(devices)


def copies(strategy: Any, variable: Any) -> list[Any]:
    """What each replica holds of a Keras variable, as arrays."""
    return [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
