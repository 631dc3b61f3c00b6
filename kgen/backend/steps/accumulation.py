"""Gradient accumulation: one training step computes the gradient of its batch in several micro-batches.

The batch stays the unit of everything else: a step is one batch and one update of the weights. Only the memory for the
activations becomes smaller, because one micro-batch after the other goes through the network. (Keras's own
`gradient_accumulation_steps` counts each micro-batch as a step, and fails under a tf.distribute strategy.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from kgen.backend.gradients import dense
from kgen.backend.steps.micro_batch import MicroBatch, computing
from kgen.backend.steps.rematerialization import rematerializing
from kgen.backend.steps.states import Changes, changed_value, first_value, state_variables

Tensor = Any
Model = Any
Share = Callable[[Any, Any, MicroBatch], Tensor]
"""Maps a batch, the weights of its examples, and a micro-batch to the micro-batch's share of the batch's loss."""


def train_step(model: Model, share: Share, count: int, *arguments: Any) -> Any:
    """Replaces `train_step` of a Keras model, on JAX and PyTorch.

    Args:
        model: The model.
        share: See `Share`.
        count: Number of micro-batches.
        arguments: The arguments of Keras's `train_step`: a state and a batch on JAX, a batch on PyTorch.
    """
    return (_jax_step if keras.backend.backend() == "jax" else _torch_step)(model, share, count, *arguments)


def train_function(model: Model, share: Share, count: int) -> Callable[[Iterator[Any]], Any]:
    """Replaces the training function of a Keras model on TensorFlow.

    Each micro-batch is a call of a program. In a loop inside of one program, replicas could not communicate; without a
    loop, TensorFlow would compute several micro-batches at the same time, which needs as much memory as one batch.

    Args:
        model, share, count: See `train_step`.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import reduce_per_replica

    strategy, weights, states = model.distribute_strategy, model.trainable_weights, state_variables(model)
    connected: list[bool] = []  # whether each weight has a gradient, which tracing finds out

    def zeros() -> tuple[list[Tensor], list[Tensor]]:
        return [tf.zeros(v.shape, v.dtype) for v in weights], [tf.zeros(v.shape, v.dtype) for v in states]

    def accumulate(data: Any, index: Tensor, sums: list[Tensor], changes: list[Tensor]) -> Any:
        micro_batch = MicroBatch(index, count)
        measured = Changes(states, micro_batch)
        with computing(micro_batch):
            with tf.GradientTape() as tape:
                loss = _loss(model, share, data, micro_batch)
            gradients = tape.gradient(loss, weights)
        connected[:] = [gradient is not None for gradient in gradients]
        sums = [s if g is None else s + dense(g) for s, g in zip(sums, gradients, strict=True)]
        return sums, [s + change for s, change in zip(changes, measured.undo(), strict=True)]

    def update(sums: list[Tensor], changes: list[Tensor]) -> dict[str, Tensor]:
        _change(states, changes, count)
        gradients = [s if has else None for s, has in zip(sums, connected, strict=True)]
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return model.compute_metrics(None, None, None)  # type: ignore[no-any-return]

    def program(step: Callable[..., Any]) -> Callable[..., Any]:
        def on_replicas(*arguments: Any) -> Any:
            return strategy.run(step, args=arguments)

        if model.run_eagerly:
            return on_replicas
        return tf.function(on_replicas, autograph=False, jit_compile=model.jit_compile)  # type: ignore[no-any-return]

    begin, add, finish = program(zeros), program(accumulate), program(update)

    def function(iterator: Iterator[Any]) -> Any:
        data, totals = next(iterator), begin()
        for index in range(count):
            totals = add(data, tf.constant(index), *totals)
        return reduce_per_replica(finish(*totals), strategy, "auto")

    return function


def _loss(model: Model, share: Share, data: Any, micro_batch: MicroBatch) -> Tensor:
    """A micro-batch's part of the loss, scaled for float16. The sum of all parts is the loss of the batch."""
    batch, _, weights = keras.utils.unpack_x_y_sample_weight(data)
    rows, weights_of_rows = micro_batch.rows((batch, weights))
    with rematerializing(model.remat):
        losses = model(rows, training=True)
    loss = model.compute_loss(rows, None, losses, weights_of_rows, training=True)
    return model.optimizer.scale_loss(loss * share(batch, weights, micro_batch))


def _change(states: list[Any], changes: list[Tensor], count: int) -> None:
    for state, change in zip(states, changes, strict=True):
        state.assign(changed_value(ops.convert_to_tensor(state), change, count))


def _torch_step(model: Model, share: Share, count: int, data: Any) -> dict[str, Tensor]:
    import torch

    weights, states = model.trainable_weights, state_variables(model)
    changes = [ops.zeros_like(state) for state in states]
    model.zero_grad()
    for index in range(count):
        micro_batch = MicroBatch(index, count)
        measured = Changes(states, micro_batch)
        with computing(micro_batch):
            _loss(model, share, data, micro_batch).backward()  # adds to the gradients of the weights
        changes = [ops.add(s, change) for s, change in zip(changes, measured.undo(), strict=True)]
    _change(states, changes, count)
    with torch.no_grad():
        model.optimizer.apply([weight.value.grad for weight in weights], weights)
    return model.compute_metrics(None, None, None)  # type: ignore[no-any-return]


def _jax_step(model: Model, share: Share, count: int, state: Any, data: Any) -> Any:
    import jax

    trainable, others, of_optimizer, metrics = state
    batch, _, weights = keras.utils.unpack_x_y_sample_weight(data)
    states = {id(variable) for variable in state_variables(model)}
    places = [place for place, variable in enumerate(model.non_trainable_variables) if id(variable) in states]

    def loss_of(trainable: Any, others: Any, metrics: Any, micro_batch: MicroBatch) -> Any:
        rows, weights_of_rows = micro_batch.rows((batch, weights))
        loss, (_, _, others, metrics) = model.compute_loss_and_updates(
            trainable, others, metrics, rows, None, weights_of_rows, training=True, optimizer_variables=of_optimizer
        )
        return loss * share(batch, weights, micro_batch), (others, metrics)

    def add(index: Any, totals: Any) -> Any:
        sums, changes, metrics = totals
        micro_batch = MicroBatch(index, count)
        first = list(others)
        for place in places:
            first[place] = first_value(model.non_trainable_variables[place], others[place], micro_batch)
        with computing(micro_batch):
            gradients, (after, metrics) = jax.grad(loss_of, has_aux=True)(trainable, first, metrics, micro_batch)
        changes = [s + after[place] - first[place] for s, place in zip(changes, places, strict=True)]
        return jax.tree.map(ops.add, sums, gradients), changes, metrics

    zeros = jax.tree.map(ops.zeros_like, (list(trainable), [others[place] for place in places]))
    sums, changes, metrics = jax.lax.fori_loop(0, count, add, (*zeros, metrics))
    others = list(others)
    for place, change in zip(places, changes, strict=True):
        others[place] = changed_value(others[place], change, count)
    trainable, of_optimizer = model.optimizer.stateless_apply(of_optimizer, sums, trainable)
    logs, metrics = model._update_metrics_variables(metrics, ops.zeros(()), batch, None, None, None)
    return logs, (trainable, others, of_optimizer, metrics)
