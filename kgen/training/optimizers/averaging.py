"""Adds global clipping and a moving average of the weights to any optimizer of Keras."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from kgen.backend.gradients import dense
from kgen.backend.replicas import replica_count
from kgen.errors import ConfigError
from kgen.options import check_options
from kgen.parts.construction import find
from kgen.plugins.faults import component_errors
from kgen.training.optimizers.power_average import gamma_of, share_of_newest


class Averaging:
    """A mixin for optimizer classes: global clipping and an exponential moving average (EMA) of the weights.

    `averaging` combines it with a class. Unlike Keras's `use_ema`, the average has a warm-up and never overwrites the
    weights. The gradient of the whole batch is clipped, also under tf.distribute, where Keras would clip each replica's
    gradient. Vectors, such as biases and gains, have no weight decay. A weight with an attribute `learning_rate_share`
    is trained with that share of the learning rate; its weight decay takes the whole rate.

    The gradient is clipped to `clip_norm`. Under tf.distribute, each replica divides the clipped whole gradient by the
    number of replicas, because Keras sums it up again.

    The optimizer class must update each variable in `update_step`, as all optimizers of Keras do.

    Args:
        learning_rate: A number or a schedule.
        clip_norm: Largest global norm of the gradient; None: no clipping.
        average: Final decay of the EMA, in [0, 1); step t uses min(average, t / (t + 10)). Or the widths of averages
            with power functions, all of which are kept: see `kgen.training.optimizers.power_average`. None: no EMA.
        options: Arguments of the optimizer class.

    Attributes:
        kept_averages: For each EMA that is kept, the averages of the weights, in the order of the weights.
        gradient_norm: The global norm of the last gradient before clipping.

    Raises:
        ValueError: gradients are accumulated and clipped; clipping would apply to each part of the sum.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        *,
        clip_norm: float | None = 1.0,
        average: float | Sequence[float] | None = 0.999,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)  # type: ignore[call-arg]
        if clip_norm is not None and self.gradient_accumulation_steps:
            raise ValueError("gradient_accumulation_steps needs clip_norm=None: each part would be clipped by itself")
        self.clip_norm = clip_norm
        self.average = average
        self.kept_averages: list[list[Any]] = []
        self.shares: list[float] = []

    @property
    def averages(self) -> list[Any]:
        """The EMA of each weight that sampling uses: the first that is kept; an empty list if there is none."""
        return list(self.kept_averages[0]) if self.kept_averages else []

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        vectors = [v for v in variables if len(v.shape) < 2]
        if vectors:
            self.exclude_from_weight_decay(var_list=vectors)
        super().build(variables)  # type: ignore[misc]
        self.shares = [getattr(v, "learning_rate_share", 1.0) for v in variables]
        count = 0 if self.average is None else len(self.average) if isinstance(self.average, Sequence) else 1
        for number in range(count):
            name = f"power{number}" if number else "average"
            self.kept_averages.append([self.add_variable_from_reference(v, name=name) for v in variables])
            for average, variable in zip(self.kept_averages[-1], variables, strict=True):
                average.assign(np.array(ops.convert_to_numpy(variable)))  # a copy: JAX donates its buffers
        self.gradient_norm = self.add_variable((), aggregation="only_first_replica", name="gradient_norm")

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        grads = [dense(gradient) for gradient in grads]
        summed = _summed(grads)
        norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in summed if g is not None))
        if not self.built and trainable_variables is not None:  # Keras would build it below
            self.build(trainable_variables)
        self.gradient_norm.assign(norm)
        if self.clip_norm is not None:
            grads = _scaled(summed, ops.minimum(1.0, self.clip_norm / (norm + 1e-12)) / replica_count())
        super().apply(grads, trainable_variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        super().update_step(gradient, variable, learning_rate * self.shares[index])  # type: ignore[misc]
        for averages, rate in zip(self.kept_averages, self._rates(), strict=True):
            average = averages[index]
            change = ops.convert_to_tensor(variable) - ops.convert_to_tensor(average)
            self.assign_add(average, ops.cast(rate, average.dtype) * change)

    def _rates(self) -> list[Any]:
        """The share of the new weights in each EMA."""
        if self.average is None:
            return []
        step = ops.cast(self.iterations, "float32")
        if isinstance(self.average, Sequence):
            return [share_of_newest(step + 1.0, gamma_of(std)) for std in self.average]
        return [1.0 - ops.minimum(self.average, step / (step + 10.0))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip_norm": self.clip_norm, "average": self.average}  # type: ignore[misc]

    if TYPE_CHECKING:  # attributes of the optimizer class

        def __getattr__(self, name: str) -> Any: ...


@functools.cache
def averaging(cls: type[Any]) -> type[Any]:
    """Returns the class that combines `Averaging` with an optimizer class."""
    return type(f"Averaging{cls.__name__}", (Averaging, cls), {"__doc__": cls.__doc__})


def make_optimizer(
    choice: str | Mapping[str, Any],
    learning_rate: Any,
    *,
    clip_norm: float | None,
    average: float | Sequence[float] | None,
) -> keras.optimizers.Optimizer:
    """Creates an optimizer that clips and averages.

    Args:
        choice: The name of an optimizer, or a mapping with `name` and options.
        learning_rate: A number or a schedule.
        clip_norm, average: See `Averaging`.

    Raises:
        ConfigError: the name or an option is wrong. PluginError: the class cannot be imported.
    """
    component, given = find("optimizer", choice)
    cls = component.load()
    checked = check_options(cls, given, component.id)
    with component_errors(cls):
        try:
            return averaging(cls)(learning_rate, clip_norm=clip_norm, average=average, **checked)
        except ValueError as error:  # for reasons that the signature cannot express
            raise ConfigError(f"optimizer '{component.id}': {error}") from error


def _summed(grads: list[Any]) -> list[Any]:
    """The sum of dense gradients over the replicas of tf.distribute, on each of them."""
    if replica_count() == 1:
        return grads
    import tensorflow as tf

    present = [g for g in grads if g is not None]
    summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if g is None else next(summed) for g in grads]


def _scaled(grads: list[Any], scale: Any) -> list[Any]:
    return [None if g is None else g * ops.cast(scale, g.dtype) for g in grads]
