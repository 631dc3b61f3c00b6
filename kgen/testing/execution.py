"""Runs components as training and sampling do, and reads their gradients, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.devices import compile_sampling, compile_training

Tensor = Any
Tree = Any


def tensors(tree: Tree) -> Tree:
    """Arrays of any nesting -> the backend's tensors."""
    return keras.tree.map_structure(ops.convert_to_tensor, tree)


def arrays(tree: Tree) -> Tree:
    """Tensors of any nesting -> numpy arrays; bfloat16 becomes float32."""
    return keras.tree.map_structure(_array, tree)


def _array(value: Tensor) -> np.ndarray:
    narrow = keras.backend.standardize_dtype(value.dtype) in ("bfloat16", "float16")
    return np.asarray(ops.convert_to_numpy(ops.cast(value, "float32") if narrow else value))


def rows(tree: Tree, index: Any) -> Tree:
    """Selects examples of a batch of arrays."""
    return keras.tree.map_structure(lambda array: array[index], tree)


def swap_first(batch: Tree, other: Tree) -> Tree:
    """The batch with its first example taken from another batch."""
    return keras.tree.map_structure(lambda a, b: np.concatenate([b[:1], a[1:]]), batch, other)


def perturb(layer: keras.layers.Layer, scale: float = 0.05) -> None:
    """Adds a little noise to the trainable weights: layers that start at zero hide whatever is wrong behind them."""
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        noise = scale * rng.standard_normal(tuple(variable.shape))
        variable.assign(ops.convert_to_numpy(variable) + noise.astype("float32"))


def reseed(layer: keras.layers.Layer, seed: int) -> None:
    """Sets the state of every `keras.random.SeedGenerator` that the layer holds."""
    for variable in layer.variables:
        if variable.name == "seed_generator_state":
            variable.assign([seed, 0])


def check_built(layer: keras.layers.Layer) -> None:
    """Checks that nothing is left to build: else Keras on JAX computes each `predict` once more, without compiling."""
    waiting = [inner.path or inner.name for inner in layer._flatten_layers(include_self=False) if not inner.built]
    assert not waiting, (
        f"{type(layer).__name__} could draw, but has not built {', '.join(waiting)}: build them with the rest, or "
        "Keras on JAX draws each time once more, uncompiled"
    )


@contextmanager
def unchanged(layer: keras.layers.Layer) -> Iterator[None]:
    """Undoes what the block does to weights and seeds."""
    before = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in layer.variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def evaluate(layer: keras.layers.Layer, function: Callable[[Tree], Tree], inputs: Tree) -> Tree:
    """Computes a function of arrays that uses the layer, leaving weights and seeds as they were.

    JAX compiles it as a whole: by itself, every operation would be compiled alone, which takes far longer.
    """
    if keras.backend.backend() != "jax":
        with unchanged(layer):
            return function(tensors(inputs))
    import jax

    def pure(values: list[Any], given: Tree) -> Tree:
        with keras.StatelessScope(state_mapping=list(zip(layer.variables, values, strict=True))):
            return function(given)

    return jax.jit(pure)([variable.value for variable in layer.variables], tensors(inputs))


def gradients(layer: keras.layers.Layer, function: Callable[[], Tensor]) -> dict[str, np.ndarray | None]:
    """Gradients of a scalar with respect to every trainable weight of a layer.

    Args:
        layer: Has all its weights.
        function: Computes the scalar from the layer, afresh.

    Returns:
        By the weight's path (numbered where two are called the same) the gradient; None where nothing depends on it.
    """
    variables = layer.trainable_variables
    found = _GRADIENTS[keras.backend.backend()](variables, function)
    names: dict[str, int] = {}
    result: dict[str, np.ndarray | None] = {}
    for variable, gradient in zip(variables, found, strict=True):
        names[variable.path] = names.get(variable.path, 0) + 1
        suffix = f"#{names[variable.path]}" if names[variable.path] > 1 else ""
        result[variable.path + suffix] = None if gradient is None else ops.convert_to_numpy(gradient)
    return result


def _tensorflow(variables: list[Any], function: Callable[[], Tensor]) -> list[Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = function()
    found = tape.gradient(value, [variable.value for variable in variables])
    return [None if g is None else tf.convert_to_tensor(g) for g in found]


def _torch(variables: list[Any], function: Callable[[], Tensor]) -> list[Any]:
    import torch

    value = function()
    if not value.requires_grad:  # nothing depends on any weight
        return [None] * len(variables)
    return list(torch.autograd.grad(value, [variable.value for variable in variables], allow_unused=True))


def _jax(variables: list[Any], function: Callable[[], Tensor]) -> list[Any]:
    import jax

    def pure(values: list[Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function()

    return list(jax.jit(jax.grad(pure))([variable.value for variable in variables]))


_GRADIENTS: dict[str, Callable[[list[Any], Callable[[], Tensor]], list[Any]]] = {
    "tensorflow": _tensorflow,
    "torch": _torch,
    "jax": _jax,
}


class Runner(keras.Model):  # type: ignore[misc]
    """A function of one layer as a Keras model, so that it is traced and compiled as in a pipeline.

    Args:
        layer: All of whose weights exist.
        function: (batch, training) -> tensors with a batch axis; for `fit`, a dict of per-example losses.
    """

    def __init__(self, layer: keras.layers.Layer, function: Callable[[Tree, bool], Tree]) -> None:
        super().__init__(autocast=False)
        self.layer = layer
        object.__setattr__(self, "function", function)  # Keras must not track or wrap it
        self.built = True
        self.compile(jit_compile=compile_sampling())

    def call(self, batch: Tree, training: bool = False) -> Tree:
        return self.function(batch, training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        return ops.mean(y_pred["loss"])

    def run(self, batch: Tree) -> Tree:
        """Computes the function of a batch of arrays, as `predict` does; traces it once a batch size."""
        return arrays(self.predict(batch, batch_size=_count(batch), verbose=0))

    def fit_batch(self, batch: Tree, steps: int, learning_rate: float) -> None:
        """Fits that one batch, so many times over."""
        count = _count(batch)
        optimizer = keras.optimizers.Adam(learning_rate, clipnorm=10.0)
        self.compile(optimizer=optimizer, jit_compile=compile_training())
        self.fit(rows(batch, np.tile(np.arange(count), steps)), batch_size=count, shuffle=False, verbose=0)


def _count(batch: Tree) -> int:
    return len(keras.tree.flatten(batch)[0])
