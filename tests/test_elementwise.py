"""Activations: their values and gradients, and that TensorFlow's CPU trains each of them as one XLA program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import ndtr

from kgen.backend.gradients import no_registered_gradients
from kgen.backend.steps.elementwise import MIN_NUMBERS, in_one_pass
from kgen.nn import geglu, gelu, gelu_tanh, swiglu
from kgen.testing.replicas import mirrored

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others need no help")

LARGE, SMALL = (2, MIN_NUMBERS), (2, 8)
ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "gelu": (gelu, lambda x: ops.gelu(x, approximate=False)),
    "gelu_tanh": (gelu_tanh, lambda x: ops.gelu(x, approximate=True)),
    "geglu": (geglu, lambda value, gate: value * ops.gelu(gate, approximate=False)),
    "swiglu": (swiglu, lambda value, gate: value * ops.silu(gate)),
}
GATED = ("geglu", "swiglu")


def numbers(shape: tuple[int, ...], count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [ops.convert_to_tensor(rng.normal(0, 2, shape).astype(np.float32)) for _ in range(count)]


@pytest.mark.backends
def test_activations_are_those_of_the_papers() -> None:
    value, gate = numbers(SMALL, 2)
    x, v = (ops.convert_to_numpy(each).astype(np.float64) for each in (gate, value))
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    expected = {gelu: x * ndtr(x), gelu_tanh: tanh}
    for function, numbers_ in expected.items():
        np.testing.assert_allclose(ops.convert_to_numpy(function(gate)), numbers_, atol=2e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(geglu(value, gate)), v * x * ndtr(x), atol=5e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(swiglu(value, gate)), v * x / (1 + np.exp(-x)), atol=5e-6)


def derivatives(function: Callable[..., Any]) -> Callable[..., Any]:
    """A graph that computes a function, its gradients, and their gradients."""
    import tensorflow as tf

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def compute(*tensors: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                value = function(*tensors)
            first = inner.gradient(value, tensors, tf.ones_like(value) * 0.5)
        return value, first, outer.gradient(first, tensors)

    return compute


def xla_functions(graph: Any) -> list[str]:
    """The functions of a graph, traced for some arguments, that XLA compiles."""
    functions = graph.graph.as_graph_def().library.function
    return [each.signature.name for each in functions if each.attr["_XlaMustCompile"].b]


@on_tensorflow
@pytest.mark.backends
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_pass_has_the_values_and_both_gradients_of_keras(name: str) -> None:
    function, expected = (derivatives(each) for each in ACTIVATIONS[name])
    tensors = numbers(LARGE, 1 + (name in GATED))
    assert xla_functions(function.get_concrete_function(*tensors))  # type: ignore[attr-defined]
    assert not xla_functions(expected.get_concrete_function(*tensors))  # type: ignore[attr-defined]
    for found, wanted, tolerance in zip(function(*tensors), expected(*tensors), (1e-5, 1e-5, 1e-4), strict=True):
        for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=tolerance)  # XLA's tanh is another one


@on_tensorflow
@pytest.mark.backends
def test_small_arrays_and_programs_without_gradients_are_left_to_tensorflow() -> None:
    (small,), (large,) = numbers(SMALL, 1), numbers(LARGE, 1)
    trace = derivatives(gelu).get_concrete_function  # type: ignore[attr-defined]
    assert xla_functions(trace(large)) and not xla_functions(trace(small))
    with no_registered_gradients():
        assert not xla_functions(derivatives(gelu).get_concrete_function(large))  # type: ignore[attr-defined]


@on_tensorflow
@pytest.mark.backends
def test_two_devices_compute_the_gradient_of_one() -> None:
    import tensorflow as tf

    (x,) = numbers(LARGE, 1)
    function = in_one_pass(lambda x: ops.sin(x) * x)
    compute = derivatives(function)
    value, (gradient,), _ = compute(x)
    strategy = mirrored()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def on_both() -> Any:
        return strategy.run(compute, (x,))

    assert xla_functions(on_both.get_concrete_function())
    values, (gradients,), _ = on_both()
    for one, other in ((value, values), (gradient, gradients)):
        first, second = (copy.numpy() for copy in strategy.experimental_local_results(other))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(one.numpy(), first)
    np.testing.assert_allclose(gradient.numpy(), 0.5 * (np.cos(x) * x + np.sin(x)), atol=1e-5)
