"""Averages of the weights with power functions as weights, from which averages of other widths can be made later.

The source is Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3.
The average at step T gives the weights of step t a share in proportion to t^gamma (equation 2). Its width is the
standard deviation of this profile, relative to the training so far, and stays the same over the whole training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


def gamma_of(std: float) -> float:
    """The exponent of the power function whose profile has this width (algorithm 2).

    The width is sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))) (equation 5): the exponent is the largest root of a
    cubic polynomial.

    Args:
        std: In (0, 0.28] (`kgen.config.sections.MAX_STD`).
    """
    inverse = std**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def share_of_newest(step: Tensor, gamma: float) -> Tensor:
    """The share of the newest weights in the average, 1 - (1 - 1 / step)^(gamma + 1) (equation 3).

    Args:
        step: The number of the step, a float32 scalar; 1 is the first.
    """
    return -ops.expm1((gamma + 1.0) * ops.log1p(-1.0 / step))  # exact, also where 1 - 1 / step rounds to 1


def combination(steps: Sequence[int], stds: Sequence[float], step: int, std: float) -> tuple[np.ndarray, float]:
    """The best combination of stored averages for an average of another width, or at another step.

    It minimizes the squared distance of the profiles (algorithm 3). Its factors sum to 1.

    Args:
        steps, stds: The step and the width of each of N stored averages.
        step, std: Those of the wanted average.

    Returns:
        (N,) the factors, and the distance that is left, relative to the norm of the wanted profile.
    """
    times, exponents = np.array(steps, np.float64), np.array([gamma_of(each) for each in stds])
    wanted = (np.float64(step), np.float64(gamma_of(std)))
    products = inner_products(times[:, None], exponents[:, None], times[None], exponents[None])  # (N, N)
    with_wanted = inner_products(times, exponents, *wanted)  # (N,)
    factors = np.linalg.lstsq(products, with_wanted, rcond=1e-12)[0]
    factors /= factors.sum()
    norm = inner_products(*wanted, *wanted)
    left = factors @ products @ factors - 2 * factors @ with_wanted + norm
    return factors, float(np.sqrt(max(left, 0.0) / norm))


def inner_products(t: Any, gamma: Any, other_t: Any, other_gamma: Any) -> Any:
    """The integral of the product of the profiles (gamma + 1) x^gamma / t^(gamma + 1) on [0, t]; arrays broadcast."""
    least, most = np.minimum(t, other_t), np.maximum(t, other_t)
    scale = (gamma + 1.0) * (other_gamma + 1.0) / (gamma + other_gamma + 1.0)
    return scale * (least / t) ** gamma * (least / other_t) ** other_gamma / most
