"""Heun's method on the probability flow."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen_plugin_diffusion.samplers.euler import velocity
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


def sample_heun(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: float = 0.0) -> Any:
    """Second-order steps that denoise twice (Karras et al. 2022, algorithm 1). The last step is an Euler step.

    Args:
        x: (B, ...) at the grid's first level.
        noise, eta: Not used, because the method is deterministic.
    """
    line = grid.rescaled()

    def euler(i: Any, y: Any) -> tuple[Any, Any, Any]:
        _, sigma, scale = line.at(i)
        _, next_sigma, _ = line.at(i + 1)
        slope = velocity(denoise, y, grid, line, i, scale)
        return y + (next_sigma - sigma) * slope, slope, next_sigma - sigma

    def step(i: Any, y: Any) -> Any:
        guess, slope, length = euler(i, y)
        slope_there = velocity(denoise, guess, grid, line, i + 1, line.at(i + 1)[2])
        return y + length * 0.5 * (slope + slope_there)

    y = ops.fori_loop(0, grid.steps - 1, step, x / line.noise_cond[0])
    y = euler(grid.steps - 1, y)[0]
    return y * line.noise_cond[grid.steps]
