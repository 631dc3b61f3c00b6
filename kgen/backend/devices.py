"""The devices of the backend, and decisions that depend on them: batch sizes, XLA, and the creation of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kgen.backend.gradients import no_gradients
from kgen.backend.replicas import replica_count


def shared_batch(size: int) -> int:
    """The smallest batch size of at least `size` that can be divided evenly among all devices.

    Keras divides every batch of `fit`, `evaluate` and `predict` among the devices of a `keras.distribution` (JAX) or of
    a tf.distribute strategy. If a batch does not divide evenly, JAX fails, and TensorFlow gives a device no rows.
    Callers must therefore pad the batch, and ignore the results of the padding.
    """
    count = batch_devices()
    return -(-size // count) * count


def batch_devices() -> int:
    """The number of devices that share every batch; on TensorFlow, those of the current strategy."""
    if keras.backend.backend() != "jax":
        return replica_count()
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return int(mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)])


def accelerators() -> list[str]:
    """The names of the accelerators that the backend sees, such as "NVIDIA H100 80GB HBM3"; none on a CPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        found = [device for kind in ("GPU", "TPU") for device in tf.config.list_physical_devices(kind)]
        details = [tf.config.experimental.get_device_details(device) for device in found]
        return [about.get("device_name", device.name) for device, about in zip(found, details, strict=True)]
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import torch

    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found or (["Apple GPU (MPS)"] if torch.backends.mps.is_available() else [])


def compile_training() -> bool:
    """Whether XLA should compile a training step. On a CPU, TensorFlow trains convolutions faster without it."""
    return keras.backend.backend() == "jax" or (keras.backend.backend() == "tensorflow" and _tensorflow_gpu())


def compile_sampling(looped: keras.layers.Layer | None = None) -> bool:
    """Whether XLA should compile sampling.

    XLA makes TensorFlow's loops faster on a CPU, too: a token with a cache can take a tenth of the time. A single step
    does not become faster, and convolutions take longer.

    Args:
        looped: The layer that takes several consecutive steps; None if there is only one step.
    """
    if compile_training():
        return True
    return keras.backend.backend() == "tensorflow" and looped is not None and not _convolves(looped)


def create_weights(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of tensors whose layers create their weights when they are called.

    On JAX, the function is only traced. Otherwise JAX would compile each operation separately, which takes many times
    longer. The weights of layers must therefore come from initializers; values that `build` assigns would be lost. On
    PyTorch, nothing is kept for gradients: for an image of 1024x1024 pixels, a published autoencoder would keep
    more than 10 GiB.

    Args:
        function: The function.
        arguments: Its arguments.

    Returns:
        The result of the function. On JAX, these are shapes and types in place of tensors; they can be arguments of
        another call.
    """
    if keras.backend.backend() != "jax":
        with no_gradients():
            return function(*arguments)
    import jax

    def stateless(*traced: Any) -> Any:
        with keras.StatelessScope():
            return function(*traced)

    with keras.StatelessScope():  # assigns the weights when it ends, after the tracing
        return jax.eval_shape(stateless, *arguments)


def as_graph(function: Callable[[], Any], wanted: bool = True) -> Callable[[], Any]:
    """On TensorFlow, `function` as one graph, if `wanted`: a function with many iterations is faster as a graph."""
    if not wanted or keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def _convolves(layer: keras.layers.Layer) -> bool:
    """Whether a layer has convolutions of pixels that overlap. Those of patches are matrix products."""
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    found = [part for part in layer._flatten_layers() if isinstance(part, kinds)]
    return any(kernel > stride for part in found for kernel, stride in zip(part.kernel_size, part.strides, strict=True))


def _tensorflow_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
