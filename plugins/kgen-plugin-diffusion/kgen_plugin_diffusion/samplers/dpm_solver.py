"""DPM-Solver++(2M)."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


def sample_dpm_solver_2m(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: float = 0.0) -> Any:
    """DPM-Solver++(2M), the multistep midpoint method (Lu et al. 2022b, algorithm 2).

    Each step is second order and denoises once. It extrapolates from the last two denoised images, linearly in
    lambda = log(alpha / sigma). The first step is first order. So is a step to a level without noise, and a step after
    a level without image, where lambda is infinite.

    Args:
        x: (B, ...) at the grid's first level.
        noise, eta: Not used, because the method is deterministic.
    """
    tiny = 1e-12

    def log_ratio(i: Any) -> Any:
        alpha, sigma, _ = grid.at(i)
        return ops.log(ops.maximum(alpha, tiny)) - ops.log(ops.maximum(sigma, tiny))

    def step(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        x, before = state
        alpha, sigma, noise_cond = grid.at(i)
        next_alpha, next_sigma, _ = grid.at(i + 1)
        image = denoise(x, alpha, sigma, noise_cond)
        last = log_ratio(ops.maximum(i - 1, 0))
        here, there = log_ratio(i), log_ratio(i + 1)
        earlier_alpha = grid.at(ops.maximum(i - 1, 0))[0]
        second_order = ops.logical_and(ops.logical_and(i > 0, earlier_alpha > tiny), next_sigma > 0)
        lean = ops.where(second_order, 0.5 * (there - here) / ops.maximum(here - last, tiny), 0.0)
        guess = image + lean * (image - before)
        x = next_sigma / sigma * x + (next_alpha - alpha * next_sigma / sigma) * guess
        return x, image

    return ops.fori_loop(0, grid.steps, step, (x, ops.zeros_like(x)))[0]
