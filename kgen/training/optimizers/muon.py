"""Muon: orthogonal steps of matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import keras
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from kgen.errors import ConfigError
from kgen.training.optimizers.of_keras import Decay, NotNegative, Rate

MAX_NAMED = 12
"""Paths of matrices that an error names."""


KERNEL = "kernel"
"""Name of the weight by which a layer multiplies its input."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Muon(keras.optimizers.Muon):  # type: ignore[misc]
    """Makes the momentum of each matrix orthogonal; AdamW for all other weights (Jordan 2024; Liu et al. 2025, eq. 4).

    A matrix is here the `kernel` of a dense layer. Keras takes every weight of two dimensions for one, but a table of
    tokens, positions or codes maps nothing, and its rows are stepped one by one. Name the layers that make the output
    in `exclude_layers`. With `rms_rate`, the learning rate is that of AdamW.

    Args:
        momentum: Share that the momentum keeps per step.
        nesterov: Whether to take the gradient as if the momentum's step had been made.
        ns_steps: Newton-Schulz iterations.
        muon_a, muon_b, muon_c: Coefficients of each iteration, a quintic polynomial.
        rms_rate: Root mean square of the steps of a matrix, in learning rates; null: steps of spectral norm 1.
        weight_decay: Share of a matrix, times the learning rate, that each step takes away.
        exclude_layers: Regular expressions; a matrix whose path has one is left to AdamW.
        exclude_embeddings: Whether AdamW takes matrices of layers that have "embedding" in their path.
        adam_beta_1, adam_beta_2, epsilon, adam_weight_decay: Of AdamW.
        adam_lr_ratio: AdamW's share of the learning rate.

    Raises:
        ConfigError: from `build`: one of `exclude_layers` fits no matrix.
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
                raise ConfigError(f"optimizer: exclude_layers: '{pattern}' fits no matrix: there are {named or 'none'}")
        super().build(var_list)

    def _should_use_adamw(self, variable: Any) -> bool:
        return variable.name != KERNEL or bool(super()._should_use_adamw(variable))
