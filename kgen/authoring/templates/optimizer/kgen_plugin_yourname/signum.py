"""The optimizer: steps of the sign of the momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field


class Signum(keras.optimizers.Optimizer):
    """Steps of equal size in the direction of the sign of the mean gradient (Bernstein et al. 2018, Signum).

    Args:
        momentum: Decay rate of the mean gradient; 0 takes the sign of the gradient itself.
    """

    def __init__(
        self, learning_rate: Any, *, momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables: Sequence[Any]) -> None:
        if not self.built:
            super().build(variables)
            self.means = self.add_optimizer_variables(variables, "mean")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean = self.means[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(mean, self.momentum * mean + (1.0 - self.momentum) * gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(mean))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}
