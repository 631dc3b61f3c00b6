"""Training on several devices: tf.distribute on TensorFlow, keras.distribution on JAX."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import keras

from kgen.backend.stream import stream
from kgen.errors import ConfigError, RunError

Name = Literal["none", "mirrored", "multi_worker", "tpu", "data_parallel", "model_parallel"]

Result = TypeVar("Result")

MIN_SPLIT = 2**16
"""The least number of values of a weight that `FullySharded` splits. For smaller ones, the communication between the
devices would cost more than the memory that it saves."""


@dataclass(frozen=True)
class Distribution:
    """The distribution of a run over devices.

    Args:
        strategy: The tf.distribute strategy, if there is one.
        replicas: Number of devices that share a batch.
        worker, workers: Index of this process, and number of processes. Worker 0 writes the run directory.
    """

    strategy: Any = None
    replicas: int = 1
    worker: int = 0
    workers: int = 1

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The scope for code that creates variables, and for `fit`."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Raises RunError if another worker ends in the block: what all compute together then fails in this one."""
        if self.workers == 1:
            yield
            return
        import tensorflow as tf

        errors = tf.errors
        lost = (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError)
        try:
            yield
        except lost as error:
            raise RunError(
                f"worker {self.worker} lost another one of the {self.workers} workers, which has ended or cannot be "
                f"reached ({type(error).__name__}): start all of them again to continue from the newest checkpoint"
            ) from error

    def wait(self) -> None:
        """Waits until all workers have come here."""
        if self.workers > 1:
            import tensorflow as tf

            arrived = self.strategy.run(lambda: tf.constant(1.0))
            float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, arrived, axis=None))

    def by_chief(self, make: Callable[[], Result], load: Callable[[], Result]) -> Result:
        """The result of `make`, which worker 0 calls. The other workers wait until it has, and call `load`."""
        made = [make()] if self.is_chief else []
        self.wait()
        return made[0] if made else load()

    def alone(self, function: Callable[..., None]) -> Callable[..., None]:
        """A function of this worker alone, which the programs of others do not take part in.

        The scope of a strategy holds in one thread. The function is therefore called in another one.
        """
        if self.workers == 1:
            return function

        def call(*arguments: Any) -> None:
            with ThreadPoolExecutor(max_workers=1) as thread:
                thread.submit(function, *arguments).result()

        return call

    def check_batch(self, batch_size: int, micro_batches: int) -> None:
        """Raises ConfigError if devices and micro-batches cannot have equal parts of a batch."""
        if batch_size % self.replicas:
            raise ConfigError(f"fit.batch_size: {batch_size} must be a multiple of the {self.replicas} devices")
        if batch_size % (self.replicas * micro_batches):
            raise ConfigError(
                f"fit.batch_size: {batch_size} must be a multiple of {self.replicas * micro_batches}: "
                f"fit.gradient_accumulation divides it into {micro_batches} micro-batches"
                + (f" on each of {self.replicas} devices" if self.replicas > 1 else "")
            )

    def feed(self, batches: Any) -> Any:
        """The data for `fit`: each worker reads its part of every batch. For one worker, Keras splits the batches."""
        return stream(batches) if self.workers == 1 else _per_replica(self.strategy, batches)


def leads(name: Name) -> bool:
    """Whether this process is worker 0 of its distribution. Raises ConfigError if TF_CONFIG is wrong."""
    if name != "multi_worker":
        return True
    text = os.environ.get("TF_CONFIG", "")
    check_cluster(text)
    return bool(json.loads(text)["task"]["index"] == 0)


def open_distribution(name: Name) -> Distribution:
    """Sets up the devices. It must be called before any tensor exists.

    Raises:
        ConfigError: the backend or the machine does not support this.
    """
    if name == "none":
        return Distribution()
    backend = keras.backend.backend()
    wanted = "jax" if name in ("data_parallel", "model_parallel") else "tensorflow"
    if backend != wanted:
        raise ConfigError(f"distribute: '{name}' needs the {wanted} backend, but this is {backend}: set KERAS_BACKEND")
    return _OPEN[name]()


def _data_parallel() -> Distribution:
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    return Distribution(replicas=len(devices))


class FullySharded(keras.distribution.ModelParallel):  # type: ignore[misc]
    """Splits every batch over all devices, and every large weight, too, with its moments and averages (FSDP, ZeRO-3).

    Each device thus holds an equal part of what the training needs besides activations. XLA gathers a weight where a
    layer needs it, and sums the gradients of each part where it is held, so that the result is that of one device. See
    Rajbhandari et al. 2020, section 5.3. The layout of a weight follows from its shape, for any network.

    Args:
        devices: The names of the devices.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], list(devices))
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), auto_shard_dataset=False)

    def get_variable_layout(self, variable: Any) -> Any:
        """The layout of a variable: its largest axis is split if it can be, or else each device holds a copy."""
        axes: list[str | None] = [None] * len(variable.shape)
        if (axis := split_axis(variable.shape, self.num_model_replicas)) is not None:
            axes[axis] = self.batch_dim_name
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def split_axis(shape: Sequence[int], devices: int) -> int | None:
    """The axis along which a weight is split evenly: the largest that can be, and the last of equal ones; None: none.

    None also stands for a weight of fewer than `MIN_SPLIT` values.
    """
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    return max(axes, key=lambda axis: (shape[axis], axis)) if axes and math.prod(shape) >= MIN_SPLIT else None


def _model_parallel() -> Distribution:
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(FullySharded(devices))
    return Distribution(replicas=len(devices))


def _mirrored() -> Distribution:
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Distribution(strategy, strategy.num_replicas_in_sync)


def _multi_worker() -> Distribution:
    check_cluster(os.environ.get("TF_CONFIG", ""))
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    workers = len(resolver.cluster_spec().job_tasks("worker"))
    return Distribution(strategy, strategy.num_replicas_in_sync, resolver.task_id, workers)


def _tpu() -> Distribution:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise ConfigError(f"distribute: 'tpu', but no TPU was found: {error}") from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Distribution(strategy, strategy.num_replicas_in_sync)


def check_cluster(text: str) -> None:
    """Checks the environment variable TF_CONFIG, which must name the workers and this one. Raises ConfigError."""
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        found = json.loads(text)
        workers, task = found["cluster"]["worker"], found["task"]
        addresses = isinstance(workers, list) and all(
            isinstance(w, str) and re.fullmatch(r".+:\d+", w) for w in workers
        )
        if not workers or not addresses:
            raise ValueError("'cluster.worker' must list addresses, HOST:PORT")
        if task["type"] != "worker":
            raise ValueError(f"'task.type' must be 'worker', not {task['type']!r}")
        if type(task["index"]) is not int or not 0 <= task["index"] < len(workers):
            raise ValueError(f"'task.index' must be one of 0 to {len(workers) - 1}, not {task['index']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        reason = "it is not set" if not text else reason
        raise ConfigError(
            "distribute: 'multi_worker' needs the environment variable TF_CONFIG to name the workers, and which one "
            f"this is, such as {example}: {reason}"
        ) from error


_OPEN: dict[str, Callable[[], Distribution]] = {
    "data_parallel": _data_parallel,
    "model_parallel": _model_parallel,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
    "tpu": _tpu,
}


def _per_replica(strategy: Any, batches: Any) -> Any:
    """The batches of a worker as a distributed dataset, so that TensorFlow does not shard them again."""
    import tensorflow as tf

    size = len(tf.nest.flatten(next(iter(batches)))[0])

    def dataset(context: Any) -> Any:
        whole = stream(batches)
        local_replicas = context.num_replicas_in_sync // context.num_input_pipelines
        return whole if local_replicas == 1 else whole.unbatch().batch(size // local_replicas)

    return strategy.distribute_datasets_from_function(dataset)
