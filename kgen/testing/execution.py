"""Runs components as in training and sampling, and computes their gradients, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.backend.devices import compile_sampling, compile_training

Tensor = Any
Tree = Any
Losses = Callable[[Tree], Mapping[str, Tensor]]


def tensors(tree: Tree) -> Tree:
    """Converts nested arrays to tensors of the backend."""
    return keras.tree.map_structure(ops.convert_to_tensor, tree)


def arrays(tree: Tree) -> Tree:
    """Converts nested tensors to numpy arrays; bfloat16 and float16 become float32."""
    return keras.tree.map_structure(_array, tree)


def _array(value: Tensor) -> np.ndarray:
    narrow = keras.backend.standardize_dtype(value.dtype) in ("bfloat16", "float16")
    return np.asarray(ops.convert_to_numpy(ops.cast(value, "float32") if narrow else value))


def as_arrays(numbers: Mapping[str, float | tuple[float, ...]]) -> dict[str, np.ndarray]:
    """Converts numbers by name to float32 scalars, and tuples to vectors, as options of a program."""
    return {name: np.asarray(value, np.float32) for name, value in numbers.items()}


def rows(tree: Tree, index: Any) -> Tree:
    """Selects examples of a batch of arrays."""
    return keras.tree.map_structure(lambda array: array[index], tree)


def swap_first(batch: Tree, other: Tree) -> Tree:
    """Replaces the first example of a batch by that of another batch."""
    return keras.tree.map_structure(lambda a, b: np.concatenate([b[:1], a[1:]]), batch, other)


def perturb(layer: keras.layers.Layer, scale: float = 0.05) -> None:
    """Adds a little noise to the trainable weights, because layers that start at zero hide errors before them."""
    assert layer.trainable_variables or not layer.weights, f"all weights of {layer.name} are frozen"
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
    """Checks that all layers are built; else Keras on JAX computes each `predict` once more, without compiling it."""
    waiting = [inner.path or inner.name for inner in layer._flatten_layers(include_self=False) if not inner.built]
    assert not waiting, (
        f"{type(layer).__name__} has generated samples, but has not built {', '.join(waiting)}: build them with the "
        "rest, or Keras on JAX samples once more each time, without compiling"
    )


@contextmanager
def unchanged(layer: keras.layers.Layer) -> Iterator[None]:
    """Restores weights and seeds after the block."""
    before = values(layer)
    try:
        yield
    finally:
        restore(before)


Values = list[tuple[Any, np.ndarray]]


def values(layer: keras.layers.Layer) -> Values:
    """All variables of the layer, with copies of their values."""
    return [(variable, np.array(ops.convert_to_numpy(variable))) for variable in layer.variables]


def restore(before: Values) -> None:
    """Restores the earlier values of variables that have changed."""
    for variable, value in before:
        if not np.array_equal(ops.convert_to_numpy(variable), value, equal_nan=value.dtype.kind == "f"):
            variable.assign(value)


# ---- values ---------------------------------------------------------------------------------------------------------


class Program:
    """A function of one layer and a batch, compiled as in a pipeline.

    TensorFlow traces it once for any number of examples. JAX compiles it for each number of examples. PyTorch runs it
    without compiling.

    Args:
        layer: A layer that has all its weights.
        function: Maps a batch of tensors to tensors with a batch axis.
    """

    def __init__(self, layer: keras.layers.Layer, function: Callable[[Tree], Tree]) -> None:
        self.layer = layer
        self._compiled = _COMPILERS[keras.backend.backend()](layer, function)

    def __call__(self, batch: Tree) -> Tree:
        """Computes the function of a batch of arrays. Weights and seeds do not change."""
        return arrays(self.compute(batch))

    def compute(self, batch: Tree) -> Tree:
        """Computes the function like `__call__`, but returns tensors of the backend."""
        with unchanged(self.layer):
            return self._compiled(tensors(batch))


def evaluate(layer: keras.layers.Layer, function: Callable[[Tree], Tree], inputs: Tree) -> Tree:
    """Computes a function of arrays that uses the layer. Weights and seeds do not change.

    JAX compiles it as a whole; otherwise JAX would compile every operation separately, which takes much longer.
    """
    with unchanged(layer):
        if keras.backend.backend() == "jax":
            return _jit(layer, function)(tensors(inputs))
        return function(tensors(inputs))


def outline(layer: keras.layers.Layer, function: Callable[[Tree], Tree], inputs: Tree) -> Tree:
    """Tensors of the shapes and types that the function returns. On JAX, nothing is computed: they have no values."""
    if keras.backend.backend() != "jax":
        return evaluate(layer, function, inputs)
    import jax

    pure = _pure(layer, function)
    return jax.eval_shape(pure, [variable.value for variable in layer.variables], tensors(inputs))


def _trace(layer: keras.layers.Layer, function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    import tensorflow as tf

    traced: Any = None

    def call(batch: Tree) -> Tree:
        nonlocal traced
        if traced is None:
            spec = keras.tree.map_structure(
                lambda x: tf.TensorSpec((None, *x.shape[1:]) if x.shape.rank else (), x.dtype), batch
            )
            traced = tf.function(function, input_signature=[spec], jit_compile=compile_sampling(), autograph=False)
        return traced(batch)

    return call


def _pure(layer: keras.layers.Layer, function: Callable[[Tree], Tree]) -> Callable[[list[Any], Tree], Tree]:
    def pure(state: list[Any], batch: Tree) -> Tree:
        with keras.StatelessScope(state_mapping=list(zip(layer.variables, state, strict=True))):
            return function(batch)

    return pure


def _jit(layer: keras.layers.Layer, function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    import jax

    compiled = jax.jit(_pure(layer, function))
    return lambda batch: compiled([variable.value for variable in layer.variables], batch)


def _eager(layer: keras.layers.Layer, function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    import torch

    return torch.no_grad()(function)  # type: ignore[no-any-return]


_COMPILERS: dict[str, Callable[[keras.layers.Layer, Callable[[Tree], Tree]], Callable[[Tree], Tree]]] = {
    "tensorflow": _trace,
    "jax": _jit,
    "torch": _eager,
}


# ---- gradients ------------------------------------------------------------------------------------------------------


def gradients(layer: keras.layers.Layer, function: Callable[[], Tensor]) -> dict[str, np.ndarray | None]:
    """Computes the gradients of a scalar with respect to every trainable weight of a layer.

    Args:
        layer: A layer that has all its weights.
        function: Computes the scalar from the layer.

    Returns:
        Gradients by the paths of the weights, which are numbered if two are equal. A gradient is None if the scalar
        does not depend on the weight.
    """
    backend = keras.backend.backend()
    compute = _jax_step if backend == "jax" else _EAGER[backend]
    found, _ = compute(layer, lambda _: {"loss": function()})(None)
    return by_path(layer, found)


def by_path(layer: keras.layers.Layer, found: Sequence[Any]) -> dict[str, np.ndarray | None]:
    """Converts gradients in the order of a layer's trainable weights to arrays by the paths of the weights."""
    names: dict[str, int] = {}
    result: dict[str, np.ndarray | None] = {}
    for variable, gradient in zip(layer.trainable_variables, found, strict=True):
        names[variable.path] = names.get(variable.path, 0) + 1
        suffix = f"#{names[variable.path]}" if names[variable.path] > 1 else ""
        result[variable.path + suffix] = None if gradient is None else ops.convert_to_numpy(gradient)
    return result


class Descent:
    """Training of one layer on one batch. The step is compiled once; Adam (Kingma and Ba 2015) runs on the host.

    Args:
        layer: A layer that has all its weights.
        losses: Maps a batch of tensors to losses by name; the mean of "loss" is minimized.
    """

    LONGEST = 10.0
    """The largest norm of a weight's gradient, to which gradients are clipped."""

    def __init__(self, layer: keras.layers.Layer, losses: Losses) -> None:
        self.layer = layer
        self._step = _STEPS[keras.backend.backend()](layer, losses)

    def gradients(self, batch: Tree) -> dict[str, np.ndarray | None]:
        """Computes gradients like the function `gradients`, for a batch of arrays. Seeds and other state advance."""
        return by_path(self.layer, self._step(tensors(batch))[0])

    def losses(self, batch: Tree) -> dict[str, Tensor]:
        """The losses of a batch of arrays, as tensors. Weights and seeds do not change."""
        with unchanged(self.layer):
            return dict(self._step(tensors(batch))[1])

    def fit(self, batch: Tree, steps: int, learning_rate: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Fits one batch of arrays for `steps` steps, or until `done` returns True. It is called four times.

        Returns:
            The last value of `done`.
        """
        given = tensors(batch)
        weights = self.layer.trainable_variables
        first = [np.zeros(tuple(weight.shape), np.float32) for weight in weights]
        second = [np.zeros_like(moment) for moment in first]
        for step in range(1, steps + 1):
            if step % max(1, steps // 4) == 0 and done():
                return True
            for weight, gradient, m, v in zip(weights, self._step(given)[0], first, second, strict=True):
                if gradient is None:
                    continue
                g = np.asarray(ops.convert_to_numpy(gradient), np.float32)
                g = g * min(1.0, self.LONGEST / max(float(np.linalg.norm(g)), 1e-12))
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                move = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
                weight.assign(ops.convert_to_numpy(weight) - learning_rate * move)
        return done()


Step = Callable[[Tree], tuple[Sequence[Any], Mapping[str, Any]]]
"""Maps a batch of tensors to the gradient of every trainable weight, and to the losses."""


def _tape(layer: keras.layers.Layer, losses: Losses) -> Step:
    import tensorflow as tf

    def step(batch: Tree) -> tuple[list[Any], Mapping[str, Any]]:
        with tf.GradientTape() as tape:
            found = losses(batch)
            value = ops.mean(found["loss"])
        parts = tape.gradient(value, [variable.value for variable in layer.trainable_variables])
        return [None if part is None else tf.convert_to_tensor(part) for part in parts], found

    return step


def _traced_tape(layer: keras.layers.Layer, losses: Losses) -> Step:
    import tensorflow as tf

    return tf.function(_tape(layer, losses), jit_compile=compile_training(), autograph=False)  # type: ignore[no-any-return]


def _autograd(layer: keras.layers.Layer, losses: Losses) -> Step:
    import torch

    def step(batch: Tree) -> tuple[list[Any], Mapping[str, Any]]:
        found = losses(batch)
        value, variables = ops.mean(found["loss"]), layer.trainable_variables
        if not value.requires_grad:  # the loss depends on no weight
            return [None] * len(variables), found
        weights = [variable.value for variable in variables]
        return list(torch.autograd.grad(value, weights, allow_unused=True)), found

    return step


def _jax_step(layer: keras.layers.Layer, losses: Losses) -> Step:
    import jax

    def pure(weights: list[Any], others: list[Any], batch: Tree) -> tuple[Tensor, Any]:
        variables = [*layer.trainable_variables, *layer.non_trainable_variables]
        mapping = list(zip(variables, [*weights, *others], strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            found = losses(batch)
            value = ops.mean(found["loss"])
        return value, (dict(found), [scope.get_current_value(variable) for variable in variables])

    compiled = jax.jit(jax.grad(pure, has_aux=True))

    def step(batch: Tree) -> tuple[list[Any], Mapping[str, Any]]:
        parts = [layer.trainable_variables, layer.non_trainable_variables]
        gradients, (found, state) = compiled(*([variable.value for variable in part] for part in parts), batch)
        for variable, value in zip([*parts[0], *parts[1]], state, strict=True):
            variable.assign(value)
        return list(gradients), found

    return step


_EAGER: dict[str, Callable[..., Step]] = {"tensorflow": _tape, "torch": _autograd}
_STEPS: dict[str, Callable[..., Step]] = {"tensorflow": _traced_tape, "torch": _autograd, "jax": _jax_step}
