"""The optimizers of Keras, with the options that a run file may give them.

What kgen does itself is left out: the learning rate and its schedule (`fit.learning_rate`, `warmup_steps`, `schedule`),
clipping (`fit.clip_norm`) and averages of the weights (`fit.ema`). Defaults are Keras's, except where a class says so.
"""

from __future__ import annotations

from typing import Annotated, Any

import keras
from pydantic import Field, PositiveFloat

Rate = Any
"""A learning rate: a number or a schedule. kgen supplies it."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share that a running mean keeps per step."""

NotNegative = Annotated[float, Field(ge=0)]


class SGD(keras.optimizers.SGD):  # type: ignore[misc]
    """Gradient descent, with momentum where that is above 0 (Polyak 1964; Nesterov 1983).

    Args:
        momentum: Share of the last step that the next one repeats.
        nesterov: Whether to take the gradient as if the momentum's step had been made.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        momentum: Decay = 0.0,
        nesterov: bool = False,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, weight_decay=weight_decay or None, **kwargs)


class RMSprop(keras.optimizers.RMSprop):  # type: ignore[misc]
    """Divides gradients by the root of their running mean square (Hinton 2012, lecture 6e).

    Args:
        rho: Share that the mean square keeps per step.
        momentum: Share of the last step that the next one repeats.
        epsilon: Added to the mean square.
        centered: Whether to divide by the variance, not by the mean square.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        rho: Decay = 0.9,
        momentum: Decay = 0.0,
        epsilon: PositiveFloat = 1e-7,
        centered: bool = False,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, rho, momentum, epsilon, centered, weight_decay=weight_decay or None, **kwargs)


class Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """Divides a running mean of the gradients by the root of their mean square (Kingma and Ba 2015, algorithm 1).

    Args:
        beta_1: Share that the mean gradient keeps per step; adversarial trainings want less, or 0.
        beta_2: Share that the mean square keeps per step.
        epsilon: Added to the root of the mean square.
        amsgrad: Whether to divide by the largest mean square so far (Reddi et al. 2018).
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        amsgrad: bool = False,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay or None, **kwargs)


class AdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, algorithm 2). kgen's default.

    Args:
        weight_decay: Share of a weight, times the learning rate, that each step takes away; 0.004 in Keras.
        beta_1: Share that the mean gradient keeps per step; adversarial trainings want less, or 0.
        beta_2: Share that the mean square keeps per step.
        epsilon: Added to the root of the mean square.
        amsgrad: Whether to divide by the largest mean square so far (Reddi et al. 2018).
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        weight_decay: NotNegative = 0.01,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, amsgrad, **kwargs)


class Adadelta(keras.optimizers.Adadelta):  # type: ignore[misc]
    """Steps as long as the last ones were (Zeiler 2012, algorithm 1). The paper's learning rate is 1.

    Args:
        rho: Share that the mean squares, of gradients and of steps, keep per step.
        epsilon: Added to both mean squares.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        rho: Decay = 0.95,
        epsilon: PositiveFloat = 1e-7,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, rho, epsilon, weight_decay=weight_decay or None, **kwargs)


class Adagrad(keras.optimizers.Adagrad):  # type: ignore[misc]
    """Divides gradients by the root of the sum of all their squares so far (Duchi et al. 2011).

    Args:
        initial_accumulator_value: What that sum starts from.
        epsilon: Added to it.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        initial_accumulator_value: NotNegative = 0.1,
        epsilon: PositiveFloat = 1e-7,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, initial_accumulator_value, epsilon, weight_decay=weight_decay or None, **kwargs)


class Adamax(keras.optimizers.Adamax):  # type: ignore[misc]
    """Adam with the largest of the recent gradients in place of their mean square (Kingma and Ba 2015, algorithm 2).

    Args:
        beta_1: Share that the mean gradient keeps per step.
        beta_2: Share that the largest gradient keeps per step.
        epsilon: Added to the largest gradient.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay or None, **kwargs)


class Adafactor(keras.optimizers.Adafactor):  # type: ignore[misc]
    """Adam without momentum, whose mean squares a row and a column per matrix (Shazeer and Stern 2018, algorithm 4).

    Its steps are a share of each weight's root mean square: min(learning rate, 1 / sqrt(step)), so that a learning rate
    of 0.01 suits where AdamW takes 0.001. Keras's `relative_step` has no effect on a schedule, and is left out.

    Args:
        beta_2_decay: At step t, the mean squares keep 1 - t^beta_2_decay.
        epsilon_1: Added to the squares of gradients.
        epsilon_2: The least root mean square of a weight that counts.
        clip_threshold: The largest root mean square of a weight's step before it is scaled.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_2_decay: Annotated[float, Field(lt=0)] = -0.8,
        epsilon_1: PositiveFloat = 1e-30,
        epsilon_2: PositiveFloat = 1e-3,
        clip_threshold: PositiveFloat = 1.0,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_2_decay,
            epsilon_1,
            epsilon_2,
            clip_threshold,
            weight_decay=weight_decay or None,
            **kwargs,
        )


class Nadam(keras.optimizers.Nadam):  # type: ignore[misc]
    """Adam with Nesterov's momentum (Dozat 2016, algorithm 2).

    Args:
        beta_1: Share that the mean gradient keeps per step.
        beta_2: Share that the mean square keeps per step.
        epsilon: Added to the root of the mean square.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay or None, **kwargs)


class Ftrl(keras.optimizers.Ftrl):  # type: ignore[misc]
    """Follows the regularized leader: weights that are sparse or small (McMahan et al. 2013, algorithm 1).

    Args:
        learning_rate_power: How the rate falls with the sum of squared gradients; 0: it does not.
        initial_accumulator_value: What that sum starts from.
        l1_regularization_strength, l2_regularization_strength: Penalties on the weights.
        l2_shrinkage_regularization_strength: A penalty on the weights within the gradient.
        beta: The paper's, of the learning rate.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        learning_rate_power: Annotated[float, Field(le=0)] = -0.5,
        initial_accumulator_value: NotNegative = 0.1,
        l1_regularization_strength: NotNegative = 0.0,
        l2_regularization_strength: NotNegative = 0.0,
        l2_shrinkage_regularization_strength: NotNegative = 0.0,
        beta: NotNegative = 0.0,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            learning_rate_power,
            initial_accumulator_value,
            l1_regularization_strength,
            l2_regularization_strength,
            l2_shrinkage_regularization_strength,
            beta,
            weight_decay=weight_decay or None,
            **kwargs,
        )


class Lion(keras.optimizers.Lion):  # type: ignore[misc]
    """Steps along the sign of the momentum, all of the same length (Chen et al. 2023, algorithm 2).

    The paper takes a learning rate 3 to 10 times smaller than AdamW's, and a weight decay as many times larger.

    Args:
        beta_1: Share of the mean gradient in a step, beside the newest gradient.
        beta_2: Share that the mean gradient keeps per step.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Annotated[float, Field(gt=0, lt=1)] = 0.9,
        beta_2: Decay = 0.99,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, weight_decay=weight_decay or None, **kwargs)


class Lamb(keras.optimizers.Lamb):  # type: ignore[misc]
    """Adam whose steps are as long as the weights, layer by layer, for large batches (You et al. 2020, algorithm 2).

    Args:
        beta_1: Share that the mean gradient keeps per step.
        beta_2: Share that the mean square keeps per step.
        epsilon: Added to the root of the mean square.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-7,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay or None, **kwargs)


class ScheduleFreeAdamW(keras.optimizers.ScheduleFreeAdamW):  # type: ignore[misc]
    """AdamW that averages its own steps in place of a schedule (Defazio et al. 2024, algorithm 1).

    Give `fit` a constant `schedule`; its `warmup_steps` are those of Keras's option of that name. The paper evaluates
    the average of the steps; kgen's samples are made with the average of `fit.ema`, of the weights that are trained.

    Args:
        beta_1: Share of the average in the weights that are trained, beside the newest step.
        beta_2: Share that the mean square keeps per step.
        epsilon: Added to the root of the mean square.
        weight_decay: Share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self,
        learning_rate: Rate,
        *,
        beta_1: Annotated[float, Field(gt=0, lt=1)] = 0.9,
        beta_2: Decay = 0.999,
        epsilon: PositiveFloat = 1e-8,
        weight_decay: NotNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay or None, **kwargs)
