"""DDIM, which with eta = 1 is DDPM's ancestral sampling."""

from __future__ import annotations

from typing import Any

from kgen.nn import ddim
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


def sample_ddim(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 0.0) -> Any:
    """DDIM over the levels of a grid: see `kgen.nn.ddim`.

    Args:
        x: (B, ...) at the grid's first level.
        eta: Share of fresh noise, 0 to 1.
    """
    return ddim(lambda x, i: denoise(x, *grid.at(i)), x, grid.alpha, grid.sigma, eta, noise)


def sample_ddpm(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """DDPM (Ho et al. 2020, algorithm 2) for any number of steps: DDIM with eta = 1 (Song et al. 2021)."""
    return sample_ddim(denoise, x, grid, noise, 1.0)


def sample_euler_ancestral(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """k-diffusion's Euler ancestral sampler: a step to less noise, then fresh noise. It equals `sample_ddpm`."""
    return sample_ddim(denoise, x, grid, noise, 1.0)
