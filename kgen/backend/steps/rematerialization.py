"""Rematerialization: the activations inside of a layer are computed again when its gradient needs them.

Only the inputs and outputs of the layer are kept until then, which takes less memory and, in all, about a third more
computation (Chen et al. 2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.variables import AutocastScope

from kgen.backend.steps.micro_batch import computing, current
from kgen.backend.steps.states import state_variables

Tensor = Any
Call = Callable[..., Any]

_wanted: ContextVar[bool] = ContextVar("rematerialize", default=False)


@contextmanager
def rematerializing(wanted: bool = True) -> Iterator[None]:
    """Sets for the block whether layers rematerialize."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def wanted() -> bool:
    """Whether layers are to rematerialize.

    They do not if the weights are replaced by other values (`keras.StatelessScope`), which would be lost in the
    backward pass. On JAX, they always are, but there, a gradient is that of a pure function of these values.
    """
    return _wanted.get() and (keras.backend.backend() == "jax" or not in_stateless_scope())


def rematerialized(layer: keras.layers.Layer, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a layer, whose activations are computed again in the backward pass, with the same random numbers.

    What the layer assigns to its variables is assigned once.

    Args:
        layer: A layer that is built.
        call: Computes the output.
        args, kwargs: The arguments of `call`. Gradients pass through the tensors of float type among them.

    Returns:
        The output, a tensor or several.
    """
    leaves = keras.tree.flatten((tuple(args), dict(kwargs)))
    places = [place for place, leaf in enumerate(leaves) if _is_float(leaf)]

    def compute(*tensors: Tensor) -> Any:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        positional, named = keras.tree.pack_sequence_as((tuple(args), dict(kwargs)), given)
        with rematerializing(False):  # the layers inside of this one
            return call(*positional, **named)

    tensors = [leaves[place] for place in places]
    if keras.backend.backend() == "jax":
        return _on_jax(layer, compute, tensors)
    again = _Repeatable(layer, compute)
    if keras.backend.backend() == "torch":
        from torch.utils.checkpoint import checkpoint

        return checkpoint(again, *tensors, use_reentrant=False)
    import tensorflow as tf

    return tf.recompute_grad(again)(*tensors)


def _is_float(leaf: Any) -> bool:
    return bool(ops.is_tensor(leaf) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)))


class _Repeatable:
    """A function of a layer that can be computed again: with the states from before the first time, which it restores.

    Args:
        layer: The layer.
        compute: The function.
    """

    def __init__(self, layer: keras.layers.Layer, compute: Call) -> None:
        self.compute = compute
        self.states = state_variables(layer)
        self.before: list[Tensor] | None = None
        self.micro_batch = current()  # PyTorch computes gradients in another thread
        self.__name__ = layer.name

    def __call__(self, *tensors: Tensor) -> Any:
        if self.before is None:
            self.before = _values(self.states)
            return self.compute(*tensors)
        after = _values(self.states)
        self._assign(self.before)
        try:
            with computing(self.micro_batch):
                return self.compute(*tensors)
        finally:
            self._assign(after)

    def _assign(self, values: Sequence[Tensor]) -> None:
        for state, value in zip(self.states, values, strict=True):
            state.assign(value)


def _on_jax(layer: keras.layers.Layer, compute: Call, tensors: Sequence[Tensor]) -> Any:
    """Here, the function must be pure: it receives and returns the values of the variables."""
    import jax

    variables, states = layer.variables, state_variables(layer)

    def pure(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
            output = compute(*tensors)
        return output, [scope.get_current_value(state) for state in states]

    output, changed = jax.checkpoint(pure)(_values(variables), list(tensors))
    for state, value in zip(states, changed, strict=True):
        state.assign(value)
    return output


def _values(variables: Sequence[Any]) -> list[Tensor]:
    """Copies of the values of variables, in their own types, also where mixed precision casts them."""
    with AutocastScope(None):
        return [ops.copy(variable) for variable in variables]
