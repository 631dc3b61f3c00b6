"""Euler's method on the probability flow."""

from __future__ import annotations

from typing import Any

from kgen import fori_loop
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Level, Noise


def sample_euler(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """First-order steps along the rescaled probability flow (Karras et al. 2022, algorithm 1 without correction).

    In the coordinates of `Grid.line`, the velocity of the flow is eps (variance exploding) or eps - image (all
    others), and a step to the next level adds (difference of position) * velocity.

    Args:
        x: (B, ...) at the grid's first level.
        noise: Not used, because the method is deterministic.
    """
    scale, position = grid.line()

    def step(i: Any, y: Any) -> Any:
        return y + (position[i + 1] - position[i]) * velocity(denoise, y * scale[i], grid.at(i), grid)

    return fori_loop(0, grid.steps, step, x / scale[0]) * scale[grid.steps]


def velocity(denoise: Denoise, x: Any, level: Level, grid: Grid) -> Any:
    """Returns dy / ds at x (B, ...) and its noise level, for y = x / scale and s = sigma / scale: see `Grid.scale`."""
    alpha, sigma, _ = level
    image = denoise(x, *level)
    eps = (x - alpha * image) / sigma
    return eps if grid.variance_exploding else eps - image
