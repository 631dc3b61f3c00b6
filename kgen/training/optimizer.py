"""AdamW with warm-up, and with a running average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.backend.gradients import dense
from kgen.backend.replicas import replica_count


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Raises the learning rate linearly from 0, then holds it or lets it fall to 0 along half a cosine.

    Args:
        peak: Highest learning rate.
        warmup_steps: Length of the rise.
        total_steps: Where the cosine ends; None: the rate stays at `peak`.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int | None) -> None:
        super().__init__()
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rate = self.peak * ops.minimum(1.0, (step + 1.0) / max(1, self.warmup_steps))
        if self.total_steps is None:
            return rate
        length = max(1, self.total_steps - self.warmup_steps)
        progress = ops.clip((step - self.warmup_steps) / length, 0.0, 1.0)
        return rate * 0.5 * (1.0 + ops.cos(progress * 3.141592653589793))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class AveragingAdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW (Loshchilov and Hutter 2019) that keeps an exponential moving average of the weights beside them.

    Unlike Keras's `use_ema`, the average warms up, and never overwrites the weights by itself. Gradients are clipped
    by the norm of the whole batch's gradient, also under tf.distribute, where Keras would clip each replica's part. A
    weight with an attribute `learning_rate_share` takes so much of each step (not of the decay), others take all of it.

    Args:
        learning_rate, weight_decay, and further options: As in Keras. Biases, gains and other vectors are not decayed.
        clip_norm: Largest global norm of the gradient; None: no limit.
        average: Final decay of the average, in [0, 1); step t uses min(average, t / (t + 10)). None: no average.

    Raises:
        ValueError: gradients are to be accumulated and clipped: each part would be clipped by itself.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        *,
        weight_decay: float = 0.01,
        clip_norm: float | None = 1.0,
        average: float | None = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        if clip_norm is not None and self.gradient_accumulation_steps:
            raise ValueError("gradient_accumulation_steps needs clip_norm=None: each part would be clipped by itself")
        self.clip_norm = clip_norm
        self.average = average
        self.averages: list[Any] = []
        self.shares: list[float] = []

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        vectors = [v for v in variables if len(v.shape) < 2]
        if vectors:
            self.exclude_from_weight_decay(var_list=vectors)
        super().build(variables)
        self.shares = [getattr(v, "learning_rate_share", 1.0) for v in variables]
        if self.average is not None:
            self.averages = [self.add_variable_from_reference(v, name="average") for v in variables]
            for average, variable in zip(self.averages, variables, strict=True):
                average.assign(np.array(ops.convert_to_numpy(variable)))  # a copy: JAX donates its buffers

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        grads = [dense(gradient) for gradient in grads]
        if self.clip_norm is not None:
            grads = _clip_globally(grads, self.clip_norm)
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        super().update_step(gradient, variable, learning_rate * self.shares[index])
        if self.average is None:
            return
        average = self.averages[index]
        step = ops.cast(self.iterations, average.dtype)
        rate = 1.0 - ops.minimum(ops.cast(self.average, average.dtype), step / (step + 10.0))
        self.assign_add(average, rate * (ops.convert_to_tensor(variable) - ops.convert_to_tensor(average)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip_norm": self.clip_norm, "average": self.average}


def _clip_globally(grads: list[Any], limit: float) -> list[Any]:
    """Scales dense gradients down to a global norm; under tf.distribute, that of the sum over replicas.

    There, the whole gradient is returned on each replica, divided by their number: the optimizer sums it up again.
    """
    count = replica_count()
    if count > 1:
        import tensorflow as tf

        present = [g for g in grads if g is not None]
        summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
        grads = [None if g is None else next(summed) for g in grads]
    norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in grads if g is not None))
    scale = ops.minimum(1.0, limit / (norm + 1e-12)) / count
    return [None if g is None else g * ops.cast(scale, g.dtype) for g in grads]
