"""The parts of the conformance kit, and the plugin that the guide shows."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kgen.testing import gradients


@pytest.mark.backends
def test_gradients_are_those_of_calculus() -> None:
    layer = keras.layers.Dense(1, use_bias=True)
    x = ops.convert_to_tensor(np.array([[1.0, 2.0, -3.0]], "float32"))
    layer(x)
    layer.kernel.assign(np.array([[1.0], [1.0], [1.0]]))
    found = gradients(layer, lambda: ops.sum(ops.square(layer(x)[:, 0]) + 0.0 * layer(x)[:, 0]))
    kernel, bias = found.values()  # y = w.x + b = 0, so dy^2 = 2 y x = 0
    assert kernel is not None and not kernel.any() and bias is not None and not bias.any()
    layer.bias.assign([2.0])
    kernel, bias = gradients(layer, lambda: ops.sum(ops.square(layer(x)))).values()
    np.testing.assert_allclose(kernel[:, 0], [4.0, 8.0, -12.0])
    np.testing.assert_allclose(bias, [4.0])


def test_the_plugin_of_the_guide_is_this_one() -> None:
    root = Path(__file__).parents[1]
    assert (root / "tests/gaussian.py").read_text() in (root / "docs/guides/plugins/generator.md").read_text()
