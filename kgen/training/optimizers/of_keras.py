"""The optimizers of Keras, with typed options for run files.

kgen itself sets the learning rate and its schedule (`fit.learning_rate`, `fit.warmup_steps`, `fit.schedule`), clips
gradients (`fit.clip_norm`) and averages weights (`fit.ema`), so these classes have no options for that. The defaults
are those of Keras, unless a class documents another.
"""

from __future__ import annotations

from typing import Annotated, Any

import keras
from pydantic import Field, PositiveFloat

Rate = Any
"""A learning rate: a number or a schedule."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a running mean."""

NotNegative = Annotated[float, Field(ge=0)]


class SGD(keras.optimizers.SGD):  # type: ignore[misc]
    """Gradient descent with optional momentum (Polyak 1964; Nesterov 1983).

    Args:
        momentum: Momentum; the next step repeats this share of the last one.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Gradients divided by the root of their running mean square (Hinton 2012, lecture 6e).

    Args:
        rho: Decay rate of the mean squared gradient.
        momentum: Momentum; the next step repeats this share of the last one.
        epsilon: Constant added to the mean squared gradient.
        centered: Whether to divide by the variance instead of the mean square.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """The mean gradient divided by the root of the mean squared gradient (Kingma and Ba 2015, algorithm 1).

    Args:
        beta_1: Decay rate of the mean gradient; adversarial training needs a smaller value, or 0.
        beta_2: Decay rate of the mean squared gradient.
        epsilon: Constant added to the root of the mean squared gradient.
        amsgrad: Whether to divide by the largest mean squared gradient so far (Reddi et al. 2018).
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2). This is the default optimizer.

    Args:
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate. Keras's default
            is 0.004.
        beta_1: Decay rate of the mean gradient; adversarial training needs a smaller value, or 0.
        beta_2: Decay rate of the mean squared gradient.
        epsilon: Constant added to the root of the mean squared gradient.
        amsgrad: Whether to divide by the largest mean squared gradient so far (Reddi et al. 2018).
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
    """Gradients scaled to the size of the last steps (Zeiler 2012, algorithm 1). The paper uses a learning rate of 1.

    Args:
        rho: Decay rate of the mean squared gradients and of the mean squared steps.
        epsilon: Constant added to both mean squares.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Gradients divided by the root of the sum of all squared gradients so far (Duchi et al. 2011).

    Args:
        initial_accumulator_value: Initial value of the sum of squared gradients.
        epsilon: Constant added to the sum.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Adam with the largest recent gradient instead of the mean squared gradient (Kingma and Ba 2015, algorithm 2).

    Args:
        beta_1: Decay rate of the mean gradient.
        beta_2: Decay rate of the largest gradient.
        epsilon: Constant added to the largest gradient.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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

    A step is the root mean square of the weight times min(learning rate, 1 / sqrt(step)), so Adafactor needs a larger
    learning rate than AdamW, such as 0.01. Keras's option `relative_step` has no effect with a schedule and is missing.

    Args:
        beta_2_decay: Exponent; at step t, the decay rate of the mean squares is 1 - t^beta_2_decay.
        epsilon_1: Constant added to the squared gradients.
        epsilon_2: Lower bound of the root mean square of a weight. Networks with layers that are 0 at first, such as a
            DiT, learn faster with a larger one, such as 0.1.
        clip_threshold: Upper bound of the root mean square of a step before it is scaled.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
        beta_1: Decay rate of the mean gradient.
        beta_2: Decay rate of the mean squared gradient.
        epsilon: Constant added to the root of the mean squared gradient.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Follow the regularized leader, for sparse or small weights (McMahan et al. 2013, algorithm 1).

    Args:
        learning_rate_power: Exponent of the sum of squared gradients in the learning rate; 0: a constant rate.
        initial_accumulator_value: Initial value of the sum of squared gradients.
        l1_regularization_strength, l2_regularization_strength: L1 and L2 penalties of the weights.
        l2_shrinkage_regularization_strength: L2 penalty that is added to the gradient.
        beta: The paper's constant beta of the learning rate.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """The sign of the momentum, with steps of equal size for all weights (Chen et al. 2023, algorithm 2).

    The paper recommends a learning rate 3 to 10 times smaller than AdamW's, and a weight decay larger by that factor.

    Args:
        beta_1: Weight of the mean gradient in a step; the newest gradient has the rest.
        beta_2: Decay rate of the mean gradient.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """Adam for large batches, with steps in proportion to the norm of each weight (You et al. 2020, algorithm 2).

    Args:
        beta_1: Decay rate of the mean gradient.
        beta_2: Decay rate of the mean squared gradient.
        epsilon: Constant added to the root of the mean squared gradient.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
    """AdamW that averages its iterates instead of a learning rate schedule (Defazio et al. 2024, algorithm 1).

    Use it with `fit.schedule: constant`. `fit.warmup_steps` replaces Keras's option `warmup_steps`. The paper evaluates
    the averaged iterates; kgen samples with the EMA (`fit.ema`) of the trained weights, as for every optimizer.

    Args:
        beta_1: Weight of the average in the trained weights; the newest iterate has the rest.
        beta_2: Decay rate of the mean squared gradient.
        epsilon: Constant added to the root of the mean squared gradient.
        weight_decay: Weight decay; each step subtracts the weight times this times the learning rate.
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
