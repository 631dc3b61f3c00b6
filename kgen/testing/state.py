"""Checks that kgen knows all weights and layers of a component, and that its seeds differ on every replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kgen.contracts.generator import initializes
from kgen.random import SeedGenerator
from kgen.testing.execution import Tree, outline, values
from kgen.testing.inputs import training_latents

COUNT = 4
"""Number of latents in a batch."""


class _Watch(keras.StatelessScope):  # type: ignore[misc]
    """Collects the variables that are read in the scope."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        self.read[id(variable)] = variable
        found, outer = super().get_current_value(variable), self.original_scope
        return found if found is not None or outer is None else outer.get_current_value(variable)


def check_tracked(layer: keras.layers.Layer, function: Callable[[Tree], Tree], batch: Tree) -> None:
    """Checks that a function of a batch of arrays reads only variables of the layer."""
    read: dict[int, Any] = {}

    def watched(b: Tree) -> Tree:
        with _Watch() as watch:
            found = function(b)
        read.update(watch.read)
        return found

    outline(layer, watched, batch)
    known = {id(variable) for variable in layer.variables}
    strange = sorted(variable.path for number, variable in read.items() if number not in known)
    assert not strange, (
        f"{type(layer).__name__} reads the variables {strange}, which are not among its own: they would be neither "
        "trained nor saved; keep layers, weights and seed generators as attributes of the component or of its layers"
    )


def check_seeds(layer: keras.layers.Layer) -> None:
    """Checks that random numbers come from kgen's seed generators, except those of Keras's own layers."""
    for part in layer._flatten_layers():
        if type(part).__module__.startswith("keras."):
            continue
        for generator in part._seed_generators:
            assert isinstance(generator, SeedGenerator), (
                f"{type(part).__name__} holds a keras.random.SeedGenerator, which gives the same numbers on every "
                "replica: use kgen.SeedGenerator"
            )


def check_names(layer: keras.layers.Layer) -> None:
    """Checks that no attribute that holds a layer has the name of a Keras method, which PyTorch would find instead."""
    for part in layer._flatten_layers():
        hidden = [name for name, value in vars(part).items() if isinstance(value, keras.layers.Layer)]
        hidden = sorted(name for name in [*hidden, *getattr(part, "_modules", ())] if hasattr(keras.layers.Layer, name))
        assert not hidden, (
            f"{type(part).__name__} keeps a layer as {hidden[0]!r}, which is the name of something that every Keras "
            "layer has: on PyTorch, the layer would not be found; give the attribute another name"
        )


def initialized(generator: Any, seed: int = 0) -> Any:
    """Returns a generator, after it has measured random latents."""
    generator.initialize(training_latents(generator.space, generator.condition_space, COUNT, seed))
    return generator


def check_initialization(generator: Any) -> None:
    """Checks that `initialize`, if there is one, depends on the latents, and not on what was measured before."""
    if not initializes(type(generator)):
        return
    first = values(initialized(generator))
    second = values(initialized(generator, seed=1))
    assert any(not np.array_equal(found, value) for (_, found), (_, value) in zip(second, first, strict=True)), (
        "initialize leaves every weight as it was for other latents: it must measure them"
    )
    for (variable, found), (_, value) in zip(values(initialized(generator)), first, strict=True):
        message = f"initialize, called again with the same latents, changes {variable.path}"
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6, err_msg=message)
