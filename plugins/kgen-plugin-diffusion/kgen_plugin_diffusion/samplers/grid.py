"""The noise levels that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from kgen.nn import end_clean
from kgen_plugin_diffusion.schedules import Schedule

Tensor = Any
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x (B, ...), alpha, sigma, noise_cond: scalars) -> the denoised image (B, ...)."""
Noise = Callable[[Tensor], Tensor]
"""Number of the step -> fresh normal noise with the shape of x."""
Spacing = Literal["uniform", "quadratic"]


@dataclass(frozen=True)
class Grid:
    """Noise levels from noise to image: N + 1 levels for N steps.

    Args:
        alpha, sigma, noise_cond: (N + 1,) each.
        variance_exploding: See `Schedule`.
    """

    alpha: Tensor
    sigma: Tensor
    noise_cond: Tensor
    variance_exploding: bool = False

    @property
    def steps(self) -> int:
        return int(self.alpha.shape[0]) - 1

    def at(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns alpha, sigma and noise_cond at an entry."""
        return tuple(ops.take(values, index) for values in (self.alpha, self.sigma, self.noise_cond))  # type: ignore[return-value]

    def rescaled(self) -> Grid:
        """Returns the grid of x / scale, which moves on a straight line while the denoised image stays the same.

        Its `noise_cond` holds the scale: alpha if variance exploding, otherwise alpha + sigma.
        """
        scale = self.alpha if self.variance_exploding else self.alpha + self.sigma
        return Grid(self.alpha / scale, self.sigma / scale, scale, self.variance_exploding)


def time_grid(schedule: Schedule, steps: int, spacing: Spacing = "uniform", start: float = 1.0) -> Grid:
    """Returns a schedule's noise levels at `steps` falling times from `start`, and a last level without noise.

    Args:
        spacing: "uniform" in t, or "quadratic", which is finer toward the image (Song et al. 2021, appendix D.2). For
            the Karras schedule, "uniform" is equation 5 of Karras et al. 2022; its last level but one has sigma 0.002.
        start: First time, in (0, 1].
    """
    if schedule.variance_exploding:
        times = 1.0 - ops.arange(steps, dtype="float32") / max(1, steps - 1)
        times = ops.concatenate([times, times[-1:]])
    else:
        times = 1.0 - ops.arange(steps + 1, dtype="float32") / steps
    times = start * (times**2 if spacing == "quadratic" else times)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    noise_cond = schedule.noise_cond(times, sigma)
    return Grid(*end_clean(alpha, sigma), noise_cond, schedule.variance_exploding)
