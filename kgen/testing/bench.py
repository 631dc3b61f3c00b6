"""One component for all checks of a class, because building and compiling it takes most of their time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from kgen.random import seed_everything
from kgen.testing.configuration import ConfigurationConformance
from kgen.testing.execution import Descent, Losses, Program, Tree, evaluate, perturb, restore, rows, values


class Bench:
    """A component with all its weights, their initial values, and the programs that were compiled for it."""

    def __init__(self, component: Any) -> None:
        self.component = component
        self.count = len(component.variables)
        self._begin = values(component)
        self._programs: dict[str, Any] = {}

    def reset(self, perturbed: bool) -> None:
        """Resets the weights and seeds to their initial values, or to perturbed values, as if it had been trained."""
        restore(self._begin)
        if perturbed and self.component.trainable_variables:  # a pretrained encoder may have none
            perturb(self.component)

    def program(self, name: str, function: Callable[[Tree], Tree]) -> Program:
        """Returns the compiled function. The first call with a name compiles the program for this name."""
        if name not in self._programs:
            self._programs[name] = Program(self.component, function)
        return self._programs[name]  # type: ignore[no-any-return]

    def evaluate(self, name: str, function: Callable[[Tree], Tree], batch: Tree) -> Tree:
        """Computes a function of a batch of arrays in the cheapest way. On JAX, it is compiled once per name."""
        if keras.backend.backend() == "jax":
            return self.program(name, function).compute(batch)
        return evaluate(self.component, function, batch)

    def portions(self, batch: Tree, count: int) -> list[Tree]:
        """Divides a batch into portions for `evaluate`. On JAX, they have `count` rows, for which it is compiled."""
        if keras.backend.backend() != "jax":
            return [batch]
        total = len(keras.tree.flatten(batch)[0])
        return [rows(batch, slice(start, start + count)) for start in range(0, total, count)]

    def descent(self, losses: Losses) -> Descent:
        """Returns the training with these losses. The first call creates it; a component has only one."""
        if "descent" not in self._programs:
            self._programs["descent"] = Descent(self.component, losses)
        return self._programs["descent"]  # type: ignore[no-any-return]


class Benched(ConfigurationConformance):
    """A class of checks whose component is built once."""

    _benches: ClassVar[dict[str, Bench]]

    def ready(self) -> Any:
        """Returns a new component that has all its weights."""
        raise NotImplementedError

    def bench(self, perturbed: bool = False) -> Bench:
        """The component of this class with its initial weights, or with perturbed weights as after some training.

        There is one for each dtype policy of Keras. pytest drops them after the last check of the class.
        """
        if "_benches" not in type(self).__dict__:
            type(self)._benches = {}
        policy = keras.config.dtype_policy().name
        if policy not in self._benches:
            seed_everything(0)
            self._benches[policy] = Bench(self.ready())
        bench = self._benches[policy]
        bench.reset(perturbed)
        return bench

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls._benches = {}
