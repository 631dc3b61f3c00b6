"""Samplers, which turn noise into an image with a denoising function.

A sampler is a pure function ``(denoise, x, grid, noise, eta) -> x`` over a `Grid` of noise levels. Any plugin can add
one: ``registry.add("diffusion.sampler", "mine", "package.module:sample_mine", summary=...)``. The target is such a
function, or a class whose instances are called like it and whose keyword arguments are the sampler's options.
"""

from __future__ import annotations

from typing import Any, Protocol

from kgen_plugin_diffusion.samplers.ddim import sample_ddim, sample_ddpm, sample_euler_ancestral
from kgen_plugin_diffusion.samplers.dpm_solver import sample_dpm_solver_2m
from kgen_plugin_diffusion.samplers.euler import sample_euler
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise, Spacing, time_grid
from kgen_plugin_diffusion.samplers.heun import sample_heun


class Sampler(Protocol):
    """The protocol of a `diffusion.sampler`.

    Args of a call:
        denoise: Denoising function, see `Denoise`.
        x: (B, ...) at the grid's first level.
        grid: Noise levels.
        noise: Source of fresh noise, see `Noise`.
        eta: Option of DDIM, 0 for all others.
    """

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: float) -> Any: ...


__all__ = [
    "Denoise",
    "Grid",
    "Noise",
    "Sampler",
    "Spacing",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpm_solver_2m",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "time_grid",
]
