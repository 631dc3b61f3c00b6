"""DPM-Solver++(2M), and its form with fresh noise."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.options import is_static
from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise

Tensor = Any


def sample_dpm_solver_2m(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """DPM-Solver++(2M), the multistep midpoint method (Lu et al. 2022b, algorithm 2).

    Each step is second order and denoises once. It extrapolates from the last two denoised images, linearly in
    lambda = log(alpha / sigma). The first step is first order. So is a step to a level without noise, and a step after
    a level without image, where lambda is infinite.

    Args:
        x: (B, ...) at the grid's first level.
        noise: Not used, because the method is deterministic.
    """
    return sample_dpm_solver_2m_sde(denoise, x, grid, noise, 0.0)


def sample_dpm_solver_2m_sde(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 1.0) -> Any:
    """SDE-DPM-Solver++(2M), the midpoint method for the diffusion SDE (Lu et al. 2022b).

    As `sample_dpm_solver_2m`, but each step also removes noise and adds fresh noise: see `solved_exactly`.

    Args:
        x: (B, ...) at the grid's first level.
        noise: See `Noise`.
        eta: Amount of fresh noise, from 0 (none: `sample_dpm_solver_2m`) to 1 (the paper's SDE).
    """
    keep, gain, fresh = solved_exactly(grid, eta)
    _, before = multistep.nodes_of(grid.log_ratios(), 2)
    slope = ops.where(multistep.usable_order(grid, 2) > 1, -0.5 / before, 0.0)

    def step(i: Any, x: Any, past: list[Any]) -> tuple[Any, Any]:
        image = denoise(x, *grid.at(i))
        guess = image + slope[i] * (image - past[0])
        x = keep[i] * x + gain[i] * guess
        return (x if is_static(eta, 0.0) else x + fresh[i] * noise(i)), image

    return multistep.run(step, x, grid, memory=1)


def solved_exactly(grid: Grid, eta: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weights of x, of the denoised image and of fresh noise in each step, if that image is constant.

    With the difference h of lambda in a step, and alpha', sigma' of its end, they are exp(-eta h) sigma' / sigma,
    alpha' (1 - exp(-(1 + eta) h)) and sigma' sqrt(1 - exp(-2 eta h)), (N,) each. For eta = 1 this is the
    diffusion SDE, and for eta = 0 the probability flow (Lu et al. 2022b).
    """
    alpha, sigma, next_alpha, next_sigma = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
    ratio = alpha * next_sigma / (next_alpha * sigma)  # exp(-h); 0 if h is infinite
    fresh = next_sigma * ops.sqrt(ops.maximum(1.0 - ratio ** (2.0 * eta), 0.0))
    return next_sigma / sigma * ratio**eta, next_alpha * (1.0 - ratio ** (1.0 + eta)), fresh
