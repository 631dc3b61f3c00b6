"""What multistep methods share: they extrapolate from the values of earlier steps by a polynomial.

A step integrates a function f, of which the last values are known, over its length. With the position u in the step,
from 0 (its beginning) to 1 (its end), the known values are at u = 0 and at u < 0. The integral of the polynomial
through them is a weighted sum of them. The weights do not depend on the image, so those of all N steps are computed
before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from kgen import fori_loop
from kgen_plugin_diffusion.samplers.grid import TINY, Grid

Tensor = Any

QUADRATURE = np.polynomial.legendre.leggauss(8)
"""Points in [-1, 1] and weights of the Gauss-Legendre quadrature, which is exact for polynomials of degree 15."""


def polynomial_weights(moments: Sequence[Tensor | float], nodes: Sequence[Tensor | float]) -> list[Tensor]:
    """Returns the weights w_j for which sum_j w_j f(u_j) is the integral of the polynomial through these values.

    Args:
        moments: Integrals of u^0, u^1, ..., with the weight function of the integral; at least as many as nodes.
        nodes: Positions u_j, which differ. Moments and nodes are numbers, or (N,) for N steps.
    """
    weights = []
    for j, node in enumerate(nodes):
        coefficients, scale = [1.0], 1.0  # of the Lagrange polynomial of this node, from the power 0 upward
        for other in (*nodes[:j], *nodes[j + 1 :]):
            coefficients = [a - other * b for a, b in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)]
            scale = scale * (node - other)
        weights.append(sum(c * moment for c, moment in zip(coefficients, moments, strict=False)) / scale)
    return weights


def exponential_moments(h: Tensor, count: int) -> list[Tensor]:
    """Returns the integrals of h exp(-h (1 - u)) u^k over u in [0, 1], (N,) each, for k = 0, 1, ..., count - 1.

    These are the integrals of the exactly solved steps in lambda = log(alpha / sigma), of which h (N,) is the
    difference (Lu et al. 2022b). The first is 1 - exp(-h).
    """
    points, weights = 0.5 * (QUADRATURE[0] + 1.0), 0.5 * QUADRATURE[1]
    decay = ops.exp(ops.outer(-h, ops.convert_to_tensor(1.0 - points, "float32")))  # (N, 8)
    powers = (ops.convert_to_tensor(weights * points**k, "float32") for k in range(1, count))  # (8,) each
    return [-ops.expm1(-h), *(h * ops.sum(decay * power, axis=-1) for power in powers)]


def nodes_of(values: Tensor, count: int) -> list[Tensor]:
    """Returns the positions u of the beginnings of each step and of the steps before it: `count` times (N,).

    Args:
        values: (N + 1,), the coordinate of the levels. In each step, it has u = 0 at the first, and u = 1 at the next.
            Positions before the first level are meaningless: see `chosen`. So are those of a step of length zero,
            whose weights are zero; they are finite.
    """
    steps = int(values.shape[0]) - 1
    begin, length = values[:-1], values[1:] - values[:-1]
    length = ops.where(length == 0.0, 1.0, length)
    numbers = np.arange(steps)
    return [(ops.take(values, np.maximum(numbers - j, 0)) - begin) / length for j in range(count)]


def usable_order(grid: Grid, maximum: int) -> Tensor:
    """Returns how many values each step in lambda = log(alpha / sigma) can use: (N,), from 1 to `maximum`.

    It is the number of values so far, without that of a level without image, where lambda is infinite. It is 1 for a
    step to a level without noise, where lambda is infinite, too.
    """
    known = ops.arange(1, grid.steps + 1) - ops.cast(grid.alpha[0] <= TINY, "int32")
    return ops.where(grid.sigma[1:] > 0, ops.clip(known, 1, maximum), 1)


def chosen(order: Tensor, candidates: Sequence[Sequence[Tensor | float]]) -> Tensor:
    """Returns the weights of all steps (N, P), filled up with zeros.

    Args:
        order: (N,), the order of each step.
        candidates: The weights of each order p = 1, ..., P: p numbers or tensors (N,).
    """
    columns: list[Tensor] = []
    for j in range(len(candidates)):
        column: Tensor = ops.zeros_like(order, "float32")
        for p, weights in enumerate(candidates, 1):
            if j < len(weights):
                column = ops.where(order >= p, weights[j], column)
        columns.append(column)
    return ops.stack(columns, axis=-1)


def weighted(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Returns the sum of P values (B, ...), with weights (P,)."""
    return sum(weights[j] * value for j, value in enumerate(values))


def run(
    step: Callable[[Tensor, Tensor, list[Tensor]], tuple[Tensor, Tensor]], x: Tensor, grid: Grid, memory: int
) -> Tensor:
    """Runs all steps of a method that remembers values of earlier steps.

    Args:
        step: (number of the step, x, the `memory` last values from the newest on) -> (next x, the new value). Values
            before the first step are zero.
        x: (B, ...) at the grid's first level.

    Returns:
        (B, ...), at the last level.
    """

    def remember(i: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *past = state
        x, value = step(i, x, past)
        return (x, *[value, *past][:memory])

    return fori_loop(0, grid.steps, remember, (x, *[ops.zeros_like(x)] * memory))[0]
