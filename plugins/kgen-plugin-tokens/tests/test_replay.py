"""On PyTorch, sampling replays the calls of one step, and gives the same tokens, bit for bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.ar import Autoregressive
from kgen_plugin_tokens.ar_nar import Combined
from kgen_plugin_tokens.nar import NonAutoregressive
from kgen_plugin_tokens.transformer import Transformer

from kgen import ConditionSpace, Generator, Space
from kgen.backend.gradients import no_gradients
from kgen.backend.loops import loop
from kgen.random import sample
from kgen.testing.execution import perturb
from kgen.testing.inputs import random_conditions

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="other backends compile loops"),
]

SPACE, TEXTS = Space("tokens", (4, 4), 7), ConditionSpace(3, 8)
SMALL = Transformer(width=16, depth=2, heads=2)


def tokens(generator: Generator, batch: int, seed: int, **options: Any) -> np.ndarray:
    noise = sample(generator.noise_spec(**options), [(seed, copy) for copy in range(batch)])
    conditions = [random_conditions(TEXTS, batch, seed) for seed in (0, 1)]
    given = keras.tree.map_structure(ops.convert_to_tensor, (*conditions, noise))
    with no_gradients():
        return np.asarray(ops.convert_to_numpy(generator.generate(*given, **options)))


@pytest.mark.parametrize(
    ("kind", "arguments", "options"),
    [
        (Autoregressive, {}, {}),
        (Autoregressive, {}, {"guidance": 2.0, "top_k": 3, "temperature": 0.8}),
        (Autoregressive, {"order": "random"}, {"guidance": 2.0, "top_p": 0.9}),
        (Autoregressive, {"network": Transformer(16, 2, 2, positions="learned", text="prefix")}, {}),
        (NonAutoregressive, {}, {"steps": 6, "guidance": 2.0}),
        (Combined, {"draft": SMALL}, {"steps": 5, "rounds": 1}),
    ],
)
def test_tokens_are_those_of_the_steps_one_by_one(
    kind: Any, arguments: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgen.backend.loops import replay

    loops = 2 if kind is Combined else 1
    keras.utils.set_random_seed(0)
    generator = kind(SPACE, TEXTS, **{"network": SMALL, **arguments})
    recorded: list[int] = []
    compiled = replay.compiled_calls
    monkeypatch.setattr(replay, "compiled_calls", lambda *given: (recorded.append(1), compiled(*given))[1])
    found = []
    for batch, seed in ((3, 1), (1, 1), (3, 2)):
        perturb(generator, 0.3)  # other weights than in the call before
        with monkeypatch.context() as plain:
            plain.setattr(loop, "MIN_ITERATIONS", 1000)
            wanted = tokens(generator, batch, seed, **options)
        assert len(recorded) == loops * len(found)
        found.append(tokens(generator, batch, seed, **options))
        np.testing.assert_array_equal(found[-1], wanted)
        assert len(recorded) == loops * len(found)
    assert len({made[0].tobytes() for made in found}) == 3
