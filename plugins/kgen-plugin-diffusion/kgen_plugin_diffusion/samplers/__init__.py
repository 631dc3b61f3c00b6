"""Samplers, which turn noise into an image with a denoising function.

A sampler is a pure function ``(denoise, x, grid, noise) -> x`` over a `Grid` of noise levels. If it adds fresh noise in
a share that users may choose, it also has an argument `eta` with a default. Any plugin can add one:
``registry.add("diffusion.sampler", "mine", "package.module:sample_mine", summary=...)``. The target is such a function,
or a class whose instances are called like it and whose keyword arguments are the sampler's options.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from kgen_plugin_diffusion.samplers.ddim import sample_ddim, sample_ddpm, sample_euler_ancestral
from kgen_plugin_diffusion.samplers.deis import DEIS
from kgen_plugin_diffusion.samplers.dpm_solver import sample_dpm_solver_2m, sample_dpm_solver_2m_sde
from kgen_plugin_diffusion.samplers.dpm_solver_3m import sample_dpm_solver_3m_sde
from kgen_plugin_diffusion.samplers.euler import sample_euler
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise, time_grid
from kgen_plugin_diffusion.samplers.heun import Heun
from kgen_plugin_diffusion.samplers.lms import LMS
from kgen_plugin_diffusion.samplers.pndm import sample_pndm
from kgen_plugin_diffusion.samplers.unipc import UniPC


class Sampler(Protocol):
    """The protocol of a `diffusion.sampler`. It may also have an argument `eta`, a float with a default.

    Args of a call:
        denoise: Denoising function, see `Denoise`.
        x: (B, ...) at the grid's first level.
        grid: Noise levels.
        noise: Source of fresh noise, see `Noise`.
    """

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any: ...


def takes_eta(sampler: Sampler) -> bool:
    """Whether a sampler has the argument `eta`, the share of fresh noise."""
    return "eta" in inspect.signature(sampler).parameters


__all__ = [
    "DEIS",
    "LMS",
    "Denoise",
    "Grid",
    "Heun",
    "Noise",
    "Sampler",
    "UniPC",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpm_solver_2m",
    "sample_dpm_solver_2m_sde",
    "sample_dpm_solver_3m_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_pndm",
    "takes_eta",
    "time_grid",
]
