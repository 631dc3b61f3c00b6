"""The noise levels that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from kgen_plugin_diffusion.schedules import Schedule

Tensor = Any
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x (B, ...), alpha, sigma, noise_cond: scalars) -> the clean image that x seems to hold."""
Noise = Callable[[Tensor], Tensor]
"""Number of the step -> fresh normal noise of x's shape."""
Spacing = Literal["uniform", "quadratic"]


@dataclass(frozen=True)
class Grid:
    """Noise levels from noise to image: N steps lie between the N + 1 entries.

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
        """alpha, sigma and noise_cond at an entry."""
        return tuple(ops.take(values, index) for values in (self.alpha, self.sigma, self.noise_cond))  # type: ignore[return-value]

    def rescaled(self) -> Grid:
        """x / scale and sigma / scale, in which x moves on a line while the denoised image stays the same."""
        scale = self.alpha if self.variance_exploding else self.alpha + self.sigma
        return Grid(self.alpha / scale, self.sigma / scale, scale, self.variance_exploding)


def time_grid(schedule: Schedule, steps: int, spacing: Spacing = "uniform", start: float = 1.0) -> Grid:
    """A schedule's noise levels at `steps` times from `start` down, and a last one without noise.

    Args:
        spacing: "uniform" in t (which for the Karras schedule is equation 5 of Karras et al. 2022, whose last time but
            one has sigma 0.002), or "quadratic": finer toward the image (Song et al. 2021, appendix D.2).
        start: The first time, in (0, 1].
    """
    if schedule.variance_exploding:
        times = 1.0 - ops.arange(steps, dtype="float32") / max(1, steps - 1)
        times = ops.concatenate([times, times[-1:]])
    else:
        times = 1.0 - ops.arange(steps + 1, dtype="float32") / steps
    times = start * (times**2 if spacing == "quadratic" else times)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    noise_cond = schedule.noise_cond(times, sigma)
    # the last level holds no noise, whatever the schedule says of t = 0
    clean = ops.cast(ops.arange(steps + 1) == steps, "float32")
    return Grid(alpha * (1.0 - clean) + clean, sigma * (1.0 - clean), noise_cond, schedule.variance_exploding)
