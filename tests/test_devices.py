"""Weights are made without computing anything where that is slow. XLA compiles what it makes faster."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kgen.backend.devices import compile_sampling, create_weights
from kgen.random import SeedGenerator, seed_everything

pytestmark = pytest.mark.backends


class Layers(keras.layers.Layer):
    """Makes some layers when it is built, and others when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Conv1D(2, 3)
        self.seeds = SeedGenerator(1)

    def build(self, shape: tuple[int, ...]) -> None:
        self.first.build(shape)
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> dict[str, Any]:
        self.count.assign(self.count + 1.0)
        hidden = self.first(x) + keras.random.normal((*ops.shape(x)[:2], 4), seed=self.seeds)
        return {"y": self.second(hidden), "mean": ops.mean(hidden, axis=(1, 2))}


def test_weights_are_those_of_a_call() -> None:
    x = ops.ones((2, 5, 3))
    made = []
    for create in (lambda layers, x: layers(x), create_weights):
        seed_everything(0)
        layers = Layers()
        made.append(layers)
        found = create(layers, x)
        assert {name: tuple(value.shape) for name, value in found.items()} == {"y": (2, 3, 2), "mean": (2,)}
    for called, created in zip(made[0].trainable_variables, made[1].trainable_variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(called), ops.convert_to_numpy(created))
    assert len(made[1].variables) == 6 and np.isfinite(ops.convert_to_numpy(made[1](x)["y"])).all()


def test_its_output_is_valid_input() -> None:
    first, second = keras.layers.Dense(4), keras.layers.Dense(2)
    assert tuple(create_weights(second, create_weights(first, ops.ones((1, 3)))).shape) == (1, 2)
    assert tuple(second.kernel.shape) == (4, 2)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others compute what they are given")
def test_jax_computes_nothing() -> None:
    layers = Layers()
    create_weights(layers, ops.ones((2, 5, 3)))
    assert float(layers.count.value) == 0.0


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch records gradients outside of training")
def test_pytorch_keeps_nothing_for_gradients() -> None:
    layers = Layers()
    assert not any(value.requires_grad for value in create_weights(layers, ops.ones((2, 5, 3))).values())
    assert all(value.requires_grad for value in layers(ops.ones((2, 5, 3))).values())


def test_xla_compiles_loops_on_a_cpu_unless_they_convolve_pixels() -> None:
    """Convolutions of patches are matrix products. PyTorch has no XLA, and JAX nothing else."""
    backend = keras.backend.backend()
    patches = keras.Sequential([keras.layers.Conv2D(4, 2, strides=2), keras.layers.Conv2D(4, 1)])
    convolving = keras.Sequential([keras.Sequential([keras.layers.Conv2D(4, 3)])])
    found = [compile_sampling(layer) for layer in (None, patches, convolving)]
    assert found == {"tensorflow": [False, True, False], "jax": [True] * 3, "torch": [False] * 3}[backend]
