"""What the hardware and the backend make worth while."""

from __future__ import annotations

import resource
import sys

import keras


def compile_training() -> bool:
    """Whether XLA should compile a training step: on a CPU, TensorFlow's own kernels train convolutions faster."""
    return keras.backend.backend() == "jax" or (keras.backend.backend() == "tensorflow" and _tensorflow_gpu())


def compile_sampling(steps: int = 1) -> bool:
    """Whether XLA should compile what is drawn in so many steps, one after the other.

    On a CPU too, TensorFlow's loops gain by it: a cached token costs down to a tenth. One step is no faster.
    """
    return compile_training() or (keras.backend.backend() == "tensorflow" and steps > 1)


def peak_memory() -> int:
    """The most memory that this process has used, in MiB; of an accelerator's own memory, nothing."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _tensorflow_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
