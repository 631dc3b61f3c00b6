"""Linear multistep method on the probability flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.euler import velocity
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise


@dataclass(frozen=True, kw_only=True)
class LMS:
    """The linear multistep method of k-diffusion (`sample_lms`): Adams-Bashforth steps of any length.

    Each step along the probability flow denoises once, and integrates the polynomial through the last velocities. The
    coordinates are those of `Grid.line`. The first steps have lower orders.

    Args:
        order: Number of velocities that a step uses, from 1 (Euler) to 4.
    """

    order: Literal[1, 2, 3, 4] = 4

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
        scale, position = grid.line()
        nodes, moments = multistep.nodes_of(position, self.order), [1.0 / (k + 1) for k in range(self.order)]
        weights = multistep.chosen(
            ops.minimum(ops.arange(1, grid.steps + 1), self.order),
            [multistep.polynomial_weights(moments, nodes[:p]) for p in range(1, self.order + 1)],
        )

        def step(i: Any, y: Any, past: list[Any]) -> tuple[Any, Any]:
            slope = velocity(denoise, y * scale[i], grid.at(i), grid)
            return y + (position[i + 1] - position[i]) * multistep.weighted(weights[i], [slope, *past]), slope

        return multistep.run(step, x / scale[0], grid, memory=self.order - 1) * scale[grid.steps]
