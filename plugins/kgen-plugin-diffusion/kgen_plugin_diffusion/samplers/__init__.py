"""Samplers: from noise to a picture, given a function that denoises.

Every sampler is a pure function ``(denoise, x, grid, noise, eta) -> x`` over a `Grid` of noise levels.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from kgen_plugin_diffusion.samplers.ddim import sample_ddim
from kgen_plugin_diffusion.samplers.dpm_solver import sample_dpm_solver_2m
from kgen_plugin_diffusion.samplers.euler import sample_euler
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise, Spacing, time_grid
from kgen_plugin_diffusion.samplers.heun import sample_heun

Name = Literal["ddpm", "ddim", "euler", "euler-ancestral", "heun", "dpm++2m"]


class Sampler(Protocol):
    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: float) -> Any: ...


SAMPLERS: dict[Name, Sampler] = {
    # Ho et al. 2020, algorithm 2, for any number of steps: DDIM with eta = 1 (Song et al. 2021, section 4.1)
    "ddpm": lambda denoise, x, grid, noise, eta: sample_ddim(denoise, x, grid, noise, 1.0),
    "ddim": sample_ddim,
    "euler": sample_euler,
    # k-diffusion's: a step down to less noise than wanted, then fresh noise; the same posterior as DDPM's
    "euler-ancestral": lambda denoise, x, grid, noise, eta: sample_ddim(denoise, x, grid, noise, 1.0),
    "heun": sample_heun,
    "dpm++2m": sample_dpm_solver_2m,
}

__all__ = ["SAMPLERS", "Denoise", "Grid", "Name", "Noise", "Sampler", "Spacing", "time_grid"]
