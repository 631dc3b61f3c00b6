"""DPM-Solver++(3M) with fresh noise."""

from __future__ import annotations

from typing import Any

from kgen.options import is_static
from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.dpm_solver import solved_exactly
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


def sample_dpm_solver_3m_sde(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 1.0) -> Any:
    """SDE-DPM-Solver++(3M), as in the authors' code (Lu et al. 2022b) and in k-diffusion (`sample_dpmpp_3m_sde`).

    Each step denoises once. It integrates the polynomial in lambda = log(alpha / sigma) through the last three denoised
    images. In both codes, the quadratic term has half of its integral. So the method is of second order in spite of its
    name; its error is smaller than that of `sample_dpm_solver_2m_sde`. UniPC and DEIS have methods of third order. The
    first step uses one image and the second one two.

    Args:
        x: (B, ...) at the grid's first level.
        noise: See `Noise`.
        eta: Amount of fresh noise, from 0 (none) to 1 (the paper's SDE).
    """
    keep, _, fresh = solved_exactly(grid, eta)
    ratios = grid.log_ratios()
    nodes = multistep.nodes_of(ratios, 3)
    constant, linear, quadratic = multistep.exponential_moments((1.0 + eta) * (ratios[1:] - ratios[:-1]), 3)
    moments = [constant, linear, 0.5 * quadratic]
    weights = multistep.chosen(
        multistep.usable_order(grid, 3), [multistep.polynomial_weights(moments, nodes[:p]) for p in (1, 2, 3)]
    )

    def step(i: Any, x: Any, past: list[Any]) -> tuple[Any, Any]:
        image = denoise(x, *grid.at(i))
        x = keep[i] * x + grid.alpha[i + 1] * multistep.weighted(weights[i], [image, *past])
        return (x if is_static(eta, 0.0) else x + fresh[i] * noise(i)), image

    return multistep.run(step, x, grid, memory=2)
