"""What the hardware and the backend make worth while."""

from __future__ import annotations

import keras


def compile_training() -> bool:
    """Whether XLA should compile a training step: on a CPU, TensorFlow's own kernels train convolutions faster."""
    return keras.backend.backend() == "jax" or (keras.backend.backend() == "tensorflow" and _tensorflow_gpu())


def compile_sampling() -> bool:
    """Whether XLA should compile a sampling loop."""
    return compile_training()


def _tensorflow_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
