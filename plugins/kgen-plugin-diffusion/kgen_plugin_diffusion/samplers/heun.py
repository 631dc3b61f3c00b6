"""Heun's method on the probability flow, with or without churn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from keras import ops
from pydantic import Field

from kgen import fori_loop
from kgen_plugin_diffusion.guidance import noise_level
from kgen_plugin_diffusion.samplers.euler import velocity
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Level, Noise

MAX_CHURN = 2**0.5 - 1.0
"""Largest relative increase of the noise level in one step (Karras et al. 2022, algorithm 2)."""


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Second-order steps that denoise twice (Karras et al. 2022, algorithms 1 and 2). The last step is an Euler step.

    With `churn`, each step first adds fresh noise, and removes it together with the old one. This corrects errors of
    earlier steps. The noise levels are sigma / alpha, for every schedule. A step adds at most as much noise as leads to
    the highest level of the schedule.

    Args:
        churn: The paper's S_churn: amount of fresh noise over all steps. 0 makes the method deterministic.
        churn_min, churn_max: S_tmin and S_tmax: the noise levels at which noise is added. None means no upper end.
        churn_noise: S_noise: standard deviation of the fresh noise.
    """

    churn: Annotated[float, Field(ge=0)] = 0.0
    churn_min: Annotated[float, Field(ge=0)] = 0.0
    churn_max: Annotated[float, Field(gt=0)] | None = None
    churn_noise: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
        def euler(i: Any, x: Any) -> tuple[Any, ...]:
            """Returns the rescaled x at the next level, the velocity, and the length of the step."""
            x, level = self._churned(x, grid, i, noise)
            scale, (next_alpha, next_sigma, _) = grid.scale(*level[:2]), grid.at(i + 1)
            slope = velocity(denoise, x, level, grid)
            length = next_sigma / grid.scale(next_alpha, next_sigma) - level[1] / scale
            return x / scale + length * slope, slope, length

        def step(i: Any, x: Any) -> Any:
            y, slope, length = euler(i, x)
            level = grid.at(i + 1)
            scale = grid.scale(*level[:2])
            next_slope = velocity(denoise, y * scale, level, grid)
            return (y + 0.5 * length * (next_slope - slope)) * scale

        x = fori_loop(0, grid.steps - 1, step, x)
        last = grid.at(grid.steps)
        return euler(grid.steps - 1, x)[0] * grid.scale(*last[:2])

    def _churned(self, x: Any, grid: Grid, i: Any, noise: Noise) -> tuple[Any, Level]:
        """Raises x to a higher noise level, and returns it with that level: lines 4 to 6 of algorithm 2."""
        level = grid.at(i)
        if self.churn == 0.0:
            return x, level
        alpha, sigma, _ = level
        now = noise_level(alpha, sigma)
        inside = ops.logical_and(
            now >= self.churn_min, now <= (float("inf") if self.churn_max is None else self.churn_max)
        )
        gamma = min(self.churn / grid.steps, MAX_CHURN)
        raised = grid.level_of(now * (1.0 + gamma))
        inside = ops.logical_and(inside, noise_level(*raised[:2]) > now)  # infinite levels stay
        level = tuple(ops.where(inside, new, old) for new, old in zip(raised, level, strict=True))
        kept = level[0] / ops.where(inside, alpha, 1.0)  # factor on x, whose image has the weight alpha
        added = ops.sqrt(ops.maximum(level[1] ** 2 - (kept * sigma) ** 2, 0.0))
        return ops.where(inside, kept * x + added * self.churn_noise * noise(i), x), level
