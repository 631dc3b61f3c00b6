"""Several devices on TensorFlow: tf.distribute."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kgen.backend.stream import stream
from kgen.errors import ConfigError
from kgen.training.distribution.base import Distribution
from kgen.training.distribution.environment import tensorflow_worker


class StrategyWorkers(Distribution):
    """One of several processes of a MultiWorkerMirroredStrategy."""

    def is_lost(self, error: Exception) -> bool:
        import tensorflow as tf

        errors = tf.errors
        lost = (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError)
        return isinstance(error, lost)

    def wait(self) -> None:
        self.any(False)

    def any(self, flag: bool) -> bool:
        import tensorflow as tf

        flags = self.strategy.run(lambda: tf.constant(float(flag)))
        return bool(self.strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None) > 0)

    def alone(self, function: Callable[..., None], model: Any) -> Callable[..., None] | None:
        """The scope of a strategy holds in one thread. The function is therefore called in another one."""
        if not self.is_chief:
            return None

        def call(*arguments: Any) -> None:
            with ThreadPoolExecutor(max_workers=1) as thread:
                thread.submit(function, *arguments).result()

        return call

    def feed(self, batches: Any) -> Any:
        """A distributed dataset, so that TensorFlow does not shard the batches of a worker again."""
        import tensorflow as tf

        size = len(tf.nest.flatten(next(iter(batches)))[0])

        def dataset(context: Any) -> Any:
            whole = stream(batches)
            local_replicas = context.num_replicas_in_sync // context.num_input_pipelines
            return whole if local_replicas == 1 else whole.unbatch().batch(size // local_replicas)

        return self.strategy.distribute_datasets_from_function(dataset)


def mirrored() -> Distribution:
    """All GPUs of this machine."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Distribution(strategy, strategy.num_replicas_in_sync)


def multi_worker() -> Distribution:
    """The devices of several processes. Raises ConfigError if TF_CONFIG does not name them."""
    worker, workers = tensorflow_worker()
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    kind = StrategyWorkers if workers > 1 else Distribution
    return kind(strategy, strategy.num_replicas_in_sync, worker, workers)


def tpu() -> Distribution:
    """The TPU that this machine is connected to. Raises ConfigError if there is none."""
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise ConfigError(f"distribute: 'tpu', but no TPU was found: {error}") from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Distribution(strategy, strategy.num_replicas_in_sync)
