"""Spacings by noise levels sigma / alpha, for every schedule: each level is visited at the time that has it.

The first time is always the start of sampling. Where its level is infinite, the formulas begin at `MAX_LEVEL`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from keras import ops
from pydantic import Field

from kgen_plugin_diffusion.guidance import noise_level
from kgen_plugin_diffusion.schedules import RHO, Schedule

Tensor = Any

MAX_LEVEL = 160.0
"""Highest noise level of a formula. The schedule of Ho et al. 2020 ends at 157, where 0.6% of x is image."""

OPTIMIZED = {
    "sd": (14.615, 6.475, 3.864, 2.695, 1.884, 1.394, 0.964, 0.652, 0.398, 0.152, 0.029),
    "sdxl": (14.615, 6.318, 3.768, 2.181, 1.341, 0.862, 0.555, 0.380, 0.233, 0.111, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The noise levels of ten steps for Stable Diffusion 1.5, SDXL and Stable Video Diffusion.

The authors' page lists discrete times for the first two, such as 999, 850, 736, ..., 24, 0. These are their levels.
"""


@dataclass(frozen=True, kw_only=True)
class Karras:
    """Levels whose 1/rho-th powers are evenly spaced (Karras et al. 2022, equation 5).

    They go from the level of the start to that of the schedule's discrete time 0.

    Args:
        rho: Larger values make more steps at low noise. 7 is the paper's.
    """

    rho: Annotated[float, Field(gt=0)] = RHO

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        high, low = (level ** (1.0 / self.rho) for level in _range(schedule, start))
        return _times(schedule, (high + _shares(steps) * (low - high)) ** self.rho, start)


def exponential(schedule: Schedule, steps: int, start: Any) -> Any:
    """Levels whose logarithms are evenly spaced, so that their log-SNR is, too (Lu et al. 2022a, "logSNR").

    They go from the level of the start to that of the schedule's discrete time 0.
    """
    high, low = (ops.log(level) for level in _range(schedule, start))
    return _times(schedule, ops.exp(high + _shares(steps) * (low - high)), start)


@dataclass(frozen=True, kw_only=True)
class AlignYourSteps:
    """Levels that were optimized for a model and ten steps (Sabour et al. 2024).

    For another number of steps, their logarithms are interpolated linearly, as the authors recommend. Other models may
    use the levels of the most similar one.

    Args:
        model: The model: Stable Diffusion 1.5, SDXL or Stable Video Diffusion.
    """

    model: Literal["sd", "sdxl", "svd"] = "sd"

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        begin = ops.log(_range(schedule, start)[0])
        *logs, last = (math.log(level) for level in OPTIMIZED[self.model])
        logs.append(ops.minimum(last, begin - math.log(2.0)))  # the levels fall even from a start below the table
        parts = len(logs) - 1
        above = sum(ops.clip((high - begin) / (high - low), 0.0, 1.0) for high, low in pairwise(logs))
        position = above + (parts - above) * ops.arange(steps, dtype="float32") / steps  # in the table, 0 to 10
        falls = (ops.clip(position - j, 0.0, 1.0) * (low - high) for j, (high, low) in enumerate(pairwise(logs)))
        return _times(schedule, ops.exp(logs[0] + sum(falls)), start)


def _shares(steps: int) -> Tensor:
    return ops.arange(steps, dtype="float32") / max(1, steps - 1)


def _range(schedule: Schedule, start: Any) -> tuple[Tensor, Tensor]:
    """Returns the noise levels at the start, and at the schedule's discrete time 0, which is at most half as high."""
    times = ops.stack([ops.convert_to_tensor(start, "float32"), ops.convert_to_tensor(schedule.time(0.0), "float32")])
    levels = noise_level(schedule.alpha(times), schedule.sigma(times))
    high = ops.minimum(levels[0], MAX_LEVEL)
    return high, ops.minimum(levels[1], 0.5 * high)


def _times(schedule: Schedule, levels: Tensor, start: Any) -> Tensor:
    """Returns the times of noise levels (N,); the first is `start`."""
    first = ops.reshape(ops.convert_to_tensor(start, "float32"), (1,))
    return ops.concatenate([first, schedule.time_at(-2.0 * ops.log(levels))[1:]])
