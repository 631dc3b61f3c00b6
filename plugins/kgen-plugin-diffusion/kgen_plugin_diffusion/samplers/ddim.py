"""DDIM, which with eta = 1 is DDPM's ancestral sampling."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.options import is_static
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


def sample_ddim(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 0.0) -> Any:
    """Denoising diffusion implicit models (Song et al. 2021, equations 12 and 16).

    This form holds for any alpha and sigma. Between levels s > t, the posterior of x_t given x_s and x_0 has the
    variance sigma_t^2 (1 - (alpha_s sigma_t / (alpha_t sigma_s))^2). A share eta^2 of this variance is fresh noise, and
    the rest of sigma_t^2 is the predicted noise. eta = 0 is deterministic and first order. eta = 1 is ancestral
    sampling (Ho et al. 2020, algorithm 2).

    Args:
        x: (B, ...) at the grid's first level.
        eta: Share of fresh noise, 0 to 1.
    """

    def step(i: Any, x: Any) -> Any:
        alpha, sigma, noise_cond = grid.at(i)
        next_alpha, next_sigma, _ = grid.at(i + 1)
        image = denoise(x, alpha, sigma, noise_cond)
        eps = (x - alpha * image) / sigma
        variance = next_sigma**2 * (1.0 - (alpha * next_sigma / (next_alpha * sigma)) ** 2)
        fresh = eta * ops.sqrt(ops.maximum(variance, 0.0))
        kept = ops.sqrt(ops.maximum(next_sigma**2 - fresh**2, 0.0))
        x = next_alpha * image + kept * eps
        return x if is_static(eta, 0.0) else x + fresh * noise(i)

    return ops.fori_loop(0, grid.steps, step, x)


def sample_ddpm(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 0.0) -> Any:
    """DDPM (Ho et al. 2020, algorithm 2) for any number of steps: DDIM with eta = 1 (Song et al. 2021, section 4.1)."""
    return sample_ddim(denoise, x, grid, noise, 1.0)


def sample_euler_ancestral(denoise: Denoise, x: Any, grid: Grid, noise: Noise, eta: Any = 0.0) -> Any:
    """k-diffusion's Euler ancestral sampler: a step to less noise, then fresh noise. It equals `sample_ddpm`."""
    return sample_ddim(denoise, x, grid, noise, 1.0)
