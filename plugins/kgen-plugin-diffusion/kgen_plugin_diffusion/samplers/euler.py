"""Euler's method on the probability flow."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Level, Noise


def sample_euler(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """First-order steps along the rescaled probability flow (Karras et al. 2022, algorithm 1 without correction).

    In the coordinates of `Grid.rescaled`, the velocity of the flow is eps (variance exploding) or eps - image (all
    others), and a step to the next level adds (difference of sigma) * velocity.

    Args:
        x: (B, ...) at the grid's first level.
        noise: Not used, because the method is deterministic.
    """
    line = grid.rescaled()

    def step(i: Any, y: Any) -> Any:
        _, sigma, scale = line.at(i)
        _, next_sigma, _ = line.at(i + 1)
        return y + (next_sigma - sigma) * velocity(denoise, y * scale, grid.at(i), grid)

    y = ops.fori_loop(0, grid.steps, step, x / line.noise_cond[0])
    return y * line.noise_cond[grid.steps]


def velocity(denoise: Denoise, x: Any, level: Level, grid: Grid) -> Any:
    """Returns dy / ds at x (B, ...) and its noise level, for y = x / scale and s = sigma / scale: see `Grid.scale`."""
    alpha, sigma, _ = level
    image = denoise(x, *level)
    eps = (x - alpha * image) / sigma
    return eps if grid.variance_exploding else eps - image
