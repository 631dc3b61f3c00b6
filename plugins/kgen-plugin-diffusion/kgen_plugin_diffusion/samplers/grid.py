"""The noise levels that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from kgen import part
from kgen.nn import end_clean
from kgen_plugin_diffusion.schedules import Schedule
from kgen_plugin_diffusion.spacings import Spacing

Tensor = Any
Level = tuple[Tensor, Tensor, Tensor]
"""alpha, sigma and noise_cond of one noise level, scalars."""
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x (B, ...), alpha, sigma, noise_cond: scalars) -> the denoised image (B, ...)."""
Noise = Callable[[Tensor], Tensor]
"""Number of the step -> fresh normal noise with the shape of x."""
TINY = 1e-12
"""Least alpha and sigma whose logarithm is used."""


@dataclass(frozen=True)
class Grid:
    """Noise levels from noise to image: N + 1 levels for N steps.

    Args:
        alpha, sigma, noise_cond: (N + 1,) each.
        variance_exploding: See `Schedule`.
        schedule: The schedule of the levels, for samplers that visit other levels, too.
    """

    alpha: Tensor
    sigma: Tensor
    noise_cond: Tensor
    variance_exploding: bool = False
    schedule: Schedule | None = None

    @property
    def steps(self) -> int:
        return int(self.alpha.shape[0]) - 1

    def at(self, index: Tensor) -> Level:
        """Returns alpha, sigma and noise_cond at an entry."""
        return tuple(ops.take(values, index) for values in (self.alpha, self.sigma, self.noise_cond))  # type: ignore[return-value]

    def log_ratios(self) -> Tensor:
        """Returns lambda = log(alpha / sigma) of all levels (N + 1,), half of their log-SNR.

        It rises from noise to image (Lu et al. 2022a). It is bounded if alpha or sigma is 0.
        """
        return ops.log(ops.maximum(self.alpha, TINY)) - ops.log(ops.maximum(self.sigma, TINY))

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns the scale for which x / scale moves on a straight line while the denoised image stays the same.

        It is alpha if variance exploding, otherwise alpha + sigma. The position on the line is sigma / scale.
        """
        return alpha if self.variance_exploding else alpha + sigma

    def level_of(self, noise_level: Tensor) -> Level:
        """Returns the level of the schedule where sigma / alpha is `noise_level`, or its highest level below that."""
        if self.schedule is None:
            raise ValueError(
                "these noise levels belong to no schedule, which a sampler with `churn` needs: set it to 0"
            )
        time = self.schedule.time_at(-2.0 * ops.log(noise_level))
        sigma = self.schedule.sigma(time)
        return self.schedule.alpha(time), sigma, self.schedule.noise_cond(time, sigma)

    def line(self) -> tuple[Tensor, Tensor]:
        """Returns the `scale` of all levels, and their positions sigma / scale on the line: (N + 1,) each."""
        scale = self.scale(self.alpha, self.sigma)
        return scale, self.sigma / scale


def time_grid(schedule: Schedule, steps: int, spacing: Spacing | str = "uniform", start: Any = 1.0) -> Grid:
    """Returns a schedule's noise levels at falling times, from noise to image.

    Args:
        steps: Number of steps.
        spacing: Spacing of the times, a `diffusion.spacing`. If it returns no time for the last level, that level is
            without noise.
        start: First time, in (0, 1].
    """
    times = part("diffusion.spacing", spacing)(schedule, steps, start)
    ends_clean = int(times.shape[0]) == steps
    if ends_clean:
        times = ops.concatenate([times, times[-1:]])
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    noise_cond = schedule.noise_cond(times, sigma)
    if ends_clean:
        alpha, sigma = end_clean(alpha, sigma)
    return Grid(alpha, sigma, noise_cond, schedule.variance_exploding, schedule)
