"""The replicas of tf.distribute: their number, the index of the current one, and sums over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def replica_count() -> int:
    """Number of replicas that train in sync; 1 without a tf.distribute strategy.

    tf.distribute sums gradients over replicas, so that a loss must be divided by this number. JAX's data parallelism
    computes the mean over the global batch by itself, and counts as one replica.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_id() -> Any:
    """Index of the current replica: an int, or an int32 scalar in a graph; 0 outside of a tf.distribute strategy."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def has_workers(strategy: Any) -> bool:
    """Whether a tf.distribute strategy spans several processes, all of which must then take part in reading sums."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def sum_over_replicas(x: Any) -> Any:
    """The sum of a float tensor over all replicas, equal on each of them; x itself if there is only one."""
    if replica_count() == 1:
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def gather_over_replicas(x: Any) -> Any:
    """The rows of a float tensor (B, ...) from all replicas, for a loss that compares an example with all others.

    The gradient of a row is the sum of its gradients on all replicas. On JAX, x already has the rows of all devices.

    Returns:
        (N, ...), in the order of the replicas; x itself if there is only one replica.
    """
    if replica_count() == 1:
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return x if context is None else context.all_gather(x, axis=0)


def first_replica(x: Any) -> Any:
    """The float tensor of the first replica, on every replica."""
    if replica_count() == 1:
        return x
    return sum_over_replicas(x * keras.ops.cast(keras.ops.equal(replica_id(), 0), x.dtype))


def on_replicas(function: Callable[[], None]) -> None:
    """Calls a function on each replica of the tf.distribute strategy in whose scope it is; once if there is none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context():
            tf.distribute.get_strategy().run(function)
            return
    function()


def loggable(logs: dict[str, Any]) -> dict[str, Any]:
    """Reshapes the logs of a step so that Keras can reduce them over workers.

    Under MultiWorkerMirroredStrategy, Keras 3's `fit` concatenates the replicas' logs, which fails for scalars.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not has_workers(tf.distribute.get_strategy()):
        return logs
    return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
