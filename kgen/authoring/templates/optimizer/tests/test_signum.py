"""Steps that are known, a minimum, and the state in a file."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from kgen_plugin_yourname.signum import Signum


def stepped(optimizer: Signum, start: list[float], gradients: list[list[float]]) -> np.ndarray:
    """The values of a variable after one step for each gradient."""
    variable = keras.Variable(np.array(start, "float32"))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
    return ops.convert_to_numpy(variable)


def test_two_steps_by_hand() -> None:
    found = stepped(Signum(0.1, momentum=0.5), [1.0, 1.0, 1.0], [[4.0, -1.0, 0.0], [-1.0, -1.0, 2.0]])
    # The means are (2, -0.5, 0), then (0.5, -0.75, 1).
    np.testing.assert_allclose(found, [0.8, 1.2, 0.9], rtol=1e-6)


def test_without_momentum_it_takes_the_sign_of_the_gradient() -> None:
    found = stepped(Signum(0.1, momentum=0.0), [1.0, 1.0], [[4.0, -1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(found, [1.0, 1.2], rtol=1e-6)


def test_it_finds_a_minimum() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(Signum(0.01), loss="mse")
    x = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")
    before = model.evaluate(x, x @ [[1.0], [-2.0]], verbose=0)
    model.fit(x, x @ [[1.0], [-2.0]], epochs=60, batch_size=16, verbose=0)
    assert model.evaluate(x, x @ [[1.0], [-2.0]], verbose=0) < 0.01 * before


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_its_configuration_makes_it_again(momentum: float) -> None:
    assert Signum.from_config(Signum(0.1, momentum=momentum).get_config()).momentum == momentum
