"""The conformance kit, and a flow whose samples are known."""

from __future__ import annotations

import numpy as np
from keras import ops
from kgen import ConditionSpace, Space
from kgen.testing import GeneratorConformance

from kgen_plugin_yourname.flow import Flow

SPACE, CONDITIONS = Space("continuous", (4, 4, 3)), ConditionSpace(5, 8)


class TestFlow(GeneratorConformance):
    generate_options = ({"steps": 4}, {"steps": 3, "guidance": 2.0})

    def build(self) -> Flow:
        return Flow(SPACE, CONDITIONS, width=32, depth=2)


def test_a_constant_velocity_adds_itself_to_the_noise() -> None:
    flow = Flow(SPACE, CONDITIONS, width=8, depth=1)
    condition = {"pooled": ops.ones((2, 8))}
    flow.compute_losses(ops.zeros((2, *SPACE.shape)), condition, training=False)  # creates the weights
    flow.output_layer.set_weights([np.zeros((8, SPACE.size)), np.full(SPACE.size, 0.5)])
    start = np.random.default_rng(0).standard_normal((2, *SPACE.shape)).astype("float32")
    for steps in (1, 5):
        made = flow.generate(condition, condition, {"start": ops.convert_to_tensor(start)}, steps=steps, guidance=3.0)
        np.testing.assert_allclose(ops.convert_to_numpy(made), start + 0.5, atol=1e-5)
