"""Fixtures that test a bijection on any backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture
def array() -> Callable[[Any], np.ndarray]:
    return lambda x: np.asarray(ops.convert_to_numpy(x))


@pytest.fixture
def condition_of() -> Callable[..., dict[str, Any]]:
    """Returns random conditions of 4 words with dimension 12; the last word is padding."""

    def make(count: int, seed: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        arrays = {
            "sequence": rng.standard_normal((count, 4, 12)),
            "mask": np.array([[1, 1, 1, 0]] * count),
            "pooled": rng.standard_normal((count, 12)),
        }
        return {name: ops.convert_to_tensor(value.astype("float32")) for name, value in arrays.items()}

    return make


@pytest.fixture
def randomize() -> Callable[..., None]:
    """Adds noise to the trainable weights, and sets random statistics in place of those of a first batch."""

    def change(layer: keras.layers.Layer, scale: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        for variable in layer.variables:
            shape = tuple(variable.shape)
            if variable.trainable:
                noise = scale * rng.standard_normal(shape)
                variable.assign(ops.convert_to_numpy(variable) + noise.astype("float32"))
            elif variable.name == "mean":
                variable.assign(0.5 * rng.standard_normal(shape).astype("float32"))
            elif variable.name == "deviation":
                variable.assign(rng.uniform(0.5, 2.0, shape).astype("float32"))

    return change


@pytest.fixture
def slogdet() -> Callable[[Callable[[Any], Any], np.ndarray], np.ndarray]:
    """Returns log |det| (B,) of the Jacobian of a function of rows (B, ...), by the backend's autodiff."""

    def find(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
        def flat(rows: Any) -> Any:
            return ops.reshape(function(ops.reshape(rows, x.shape)), (len(x), -1))

        rows = ops.convert_to_tensor(x.reshape(len(x), -1))
        jacobian = JACOBIANS[keras.backend.backend()](flat, rows)  # (B, N, N)
        return np.linalg.slogdet(jacobian.astype("float64"))[1]

    return find


def _tensorflow(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x, experimental_use_pfor=False).numpy()


def _jax(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    import jax

    return np.einsum("iajb,ij->iab", np.asarray(jax.jacfwd(function)(x)), np.eye(len(x)))


def _torch(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    import torch

    jacobian = torch.autograd.functional.jacobian(function, x)
    return np.einsum("iajb,ij->iab", jacobian.numpy(), np.eye(len(x)))


JACOBIANS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
