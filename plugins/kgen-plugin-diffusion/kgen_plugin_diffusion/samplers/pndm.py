"""PNDM, the pseudo linear multistep method."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen import fori_loop
from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the last values, from the newest on, for steps of the same length: one row for each order."""


def sample_pndm(denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
    """PNDM without Runge-Kutta steps, Stable Diffusion's "PLMS" (Liu et al. 2022).

    Each step extrapolates the noise from up to four steps by Adams-Bashforth, and moves as DDIM does (equation 9). The
    weights are those for steps of the same length in time, so use a spacing with such steps. Each step denoises once,
    except the first one, which is an improved Euler step and denoises twice. (The paper begins with three Runge-Kutta
    steps, which denoise twelve times.) If the grid has one step, or if its first level is without image, the first step
    is DDIM's.

    Args:
        x: (B, ...) at the grid's first level.
        noise: Not used, because the method is deterministic.
    """

    order = ops.minimum(ops.arange(1, grid.steps + 1), len(ADAMS_BASHFORTH))
    weights = multistep.chosen(order, ADAMS_BASHFORTH)

    def predicted(x: Any, i: Any) -> tuple[Any, Any]:
        """Returns the denoised image of x at a level, and its noise."""
        alpha, sigma, _ = grid.at(i)
        image = denoise(x, *grid.at(i))
        return image, (x - alpha * image) / sigma

    def moved(x: Any, eps: Any, i: Any) -> Any:
        """Moves x along a noise to the next level, as DDIM does."""
        (alpha, sigma, _), (next_alpha, next_sigma, _) = grid.at(i), grid.at(i + 1)
        return next_alpha * (x - sigma * eps) / alpha + next_sigma * eps

    def first_step(x: Any) -> tuple[Any, Any]:
        image, eps = predicted(x, 0)
        next_alpha, next_sigma, _ = grid.at(1)
        guess = next_alpha * image + next_sigma * eps
        if grid.steps == 1:
            return guess, eps
        _, next_eps = predicted(guess, 1)
        return ops.where(grid.alpha[0] > 0, moved(x, 0.5 * (eps + next_eps), 0), guess), eps

    def step(i: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *past = state
        _, eps = predicted(x, i)
        return (moved(x, multistep.weighted(weights[i], [eps, *past]), i), eps, *past[:-1])

    x, eps = first_step(x)
    return fori_loop(1, grid.steps, step, (x, eps, ops.zeros_like(x), ops.zeros_like(x)))[0]
