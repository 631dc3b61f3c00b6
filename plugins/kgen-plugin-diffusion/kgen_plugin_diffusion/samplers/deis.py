"""DEIS, the exponential integrator with Adams-Bashforth extrapolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


@dataclass(frozen=True, kw_only=True)
class DEIS:
    """DEIS (Zhang and Chen 2023): it extrapolates the noise from earlier steps by a polynomial.

    The polynomial is one of log(rho), rho = sigma / alpha, as in diffusers ("log-rho"). Each step denoises once. A step
    to a level without noise is first order, which is DDIM.

    Args:
        order: Number of noises that a step uses, from 1 (DDIM) to 3.
    """

    order: Literal[1, 2, 3] = 3

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
        ratios, order = grid.log_ratios(), multistep.usable_order(grid, self.order)  # log(rho) is -lambda
        moments = multistep.exponential_moments(ratios[:-1] - ratios[1:], self.order)
        nodes = multistep.nodes_of(ratios, self.order)
        weights = multistep.chosen(
            order, [multistep.polynomial_weights(moments, nodes[:p]) for p in range(1, self.order + 1)]
        )

        def step(i: Any, x: Any, past: list[Any]) -> tuple[Any, Any]:
            (alpha, sigma, _), (next_alpha, next_sigma, _) = grid.at(i), grid.at(i + 1)
            image = denoise(x, *grid.at(i))
            eps = (x - alpha * image) / sigma
            higher = next_alpha / alpha * x + next_sigma * multistep.weighted(weights[i], [eps, *past])
            first = next_alpha * image + next_sigma * eps  # where alpha or the next sigma may be 0
            return ops.where(order[i] > 1, higher, first), eps

        return multistep.run(step, x, grid, memory=self.order - 1)
