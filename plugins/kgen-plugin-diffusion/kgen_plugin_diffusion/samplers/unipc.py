"""UniPC, the unified predictor-corrector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from kgen import fori_loop
from kgen_plugin_diffusion.samplers import multistep
from kgen_plugin_diffusion.samplers.grid import Denoise, Grid, Noise

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """UniPC with B(h) = exp(h) - 1 and predicted images (Zhao et al. 2023).

    At each level, the denoised image first corrects the step that led there, and then predicts the next step. It is
    denoised once, before the correction, so a step costs no more than one of DPM-Solver++. The corrector makes the
    method one order higher than its predictor. As in the authors' code, a predictor of order 2 and a corrector of order
    1 have the weight 0.5. The last steps have lower orders, and the last one is not corrected.

    Args:
        order: Order of the predictor, from 1 to 3. diffusers recommends 2 with guidance, and 3 without.
    """

    order: Literal[1, 2, 3] = 2

    def __call__(self, denoise: Denoise, x: Any, grid: Grid, noise: Noise) -> Any:
        predictor, corrector = self._weights(grid)

        def moved(x: Any, i: Any, weights: Any, images: list[Any]) -> Any:
            (_, sigma, _), (next_alpha, next_sigma, _) = grid.at(i), grid.at(i + 1)
            return next_sigma / sigma * x + next_alpha * multistep.weighted(weights, images)

        def step(i: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
            x, before, *past = state  # x as it was predicted; the level before, corrected; images from that level on
            image = denoise(x, *grid.at(i))
            last = ops.maximum(i - 1, 0)
            corrected = moved(before, last, corrector[last], [image, *past])
            x = ops.where(ops.logical_and(i > 0, grid.alpha[last] > 0), corrected, x)
            images = [image, *past[: self.order - 1]]
            return (moved(x, i, predictor[i], images), x, *images)

        zeros = ops.zeros_like(x)
        return fori_loop(0, grid.steps, step, (x, zeros, *[zeros] * self.order))[0]

    def _weights(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Returns the weights of the images in each step.

        Those of the predictor (N, order) belong to the images at the step's beginning and before it, and those of the
        corrector (N, order + 1) to these and, first, to the image at the step's end.
        """
        ratios = grid.log_ratios()
        moments = multistep.exponential_moments(ratios[1:] - ratios[:-1], self.order + 1)
        nodes = multistep.nodes_of(ratios, self.order)
        orders = range(1, self.order + 1)
        predictors = [multistep.polynomial_weights(moments, nodes[:p]) for p in orders]
        if self.order > 1:
            slope = -0.5 * moments[0] / nodes[1]
            predictors[1] = [moments[0] + slope, -slope]
        half = 0.5 * moments[0]
        correctors = [[half, half], *(multistep.polynomial_weights(moments, [1.0, *nodes[:p]]) for p in orders[1:])]
        order = ops.minimum(multistep.usable_order(grid, self.order), grid.steps - ops.arange(grid.steps))
        return multistep.chosen(order, predictors), multistep.chosen(order + 1, [[0.0], *correctors])
