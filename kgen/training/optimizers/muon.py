"""Muon, with typed options for run files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import keras
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from kgen.errors import ConfigError
from kgen.training.optimizers.of_keras import Decay, NotNegative, Rate

MAX_NAMED = 12
"""Largest number of paths in an error message."""


KERNEL = "kernel"
"""Name of the matrix of a dense layer."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Muon(keras.optimizers.Muon):  # type: ignore[misc]
    """Orthogonalized momentum for matrices, and AdamW for all other weights (Jordan 2024; Liu et al. 2025, equation 4).

    Only the `kernel` of a dense layer is a matrix here. Keras also treats tables of tokens, positions and codes as
    matrices, but their rows are independent vectors, for which AdamW suits better. List the output layers in
    `exclude_layers`. With `rms_rate`, Muon has the same learning rate as AdamW.

    Args:
        momentum: Decay rate of the momentum.
        nesterov: Whether to use Nesterov momentum.
        ns_steps: Number of Newton-Schulz iterations.
        muon_a, muon_b, muon_c: Coefficients of the quintic polynomial of an iteration.
        rms_rate: Root mean square of a step, relative to the learning rate; null: spectral norm 1 instead.
        weight_decay: Weight decay of matrices; each step subtracts the weight times this times the learning rate.
        exclude_layers: Regular expressions. AdamW trains a matrix if one of them matches a part of its path.
        exclude_embeddings: Whether AdamW trains matrices with "embedding" in their path.
        adam_beta_1, adam_beta_2, epsilon, adam_weight_decay: Options of AdamW.
        adam_lr_ratio: Learning rate of AdamW, as a share of Muon's.

    Raises:
        ConfigError: in `build`, if an expression of `exclude_layers` matches no matrix.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        momentum: Decay = 0.95,
        nesterov: bool = True,
        ns_steps: Annotated[PositiveInt, Field(le=100)] = 5,
        muon_a: float = 3.4445,
        muon_b: float = -4.7750,
        muon_c: float = 2.0315,
        rms_rate: PositiveFloat | None = 0.2,
        weight_decay: NotNegative = 0.004,
        exclude_layers: tuple[Pattern, ...] = (),
        exclude_embeddings: bool = True,
        adam_beta_1: Decay = 0.9,
        adam_beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        adam_weight_decay: NotNegative = 0.004,
        adam_lr_ratio: NotNegative = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            adam_beta_1,
            adam_beta_2,
            adam_weight_decay or None,
            epsilon,
            weight_decay or None,
            exclude_layers=list(exclude_layers),
            exclude_embeddings=exclude_embeddings,
            muon_a=muon_a,
            muon_b=muon_b,
            muon_c=muon_c,
            adam_lr_ratio=adam_lr_ratio,
            momentum=momentum,
            ns_steps=ns_steps,
            nesterov=nesterov,
            rms_rate=rms_rate,
            **kwargs,
        )

    def build(self, var_list: Sequence[Any]) -> None:
        matrices = [v.path for v in var_list if v.name == KERNEL and len(v.shape) == 2]
        for pattern in self.exclude_layers:
            if not any(re.search(pattern, path) for path in matrices):
                named = ", ".join(matrices[:MAX_NAMED]) + (", ..." if len(matrices) > MAX_NAMED else "")
                raise ConfigError(
                    f"optimizer: exclude_layers: '{pattern}' matches no matrix: there are {named or 'none'}"
                )
        super().build(var_list)

    def _should_use_adamw(self, variable: Any) -> bool:
        return variable.name != KERNEL or bool(super()._should_use_adamw(variable))
