"""The spacings of published models, which number their times from 0 (least noise) to T - 1.

Lin et al. 2024, table 2, compares them. `Schedule.time` gives the time of a number. If sampling starts from a time
below 1, all times are scaled by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field

from kgen_plugin_diffusion.schedules import Schedule


def _times(schedule: Schedule, numbers: np.ndarray, start: Any, clean_end: bool) -> Any:
    """Returns the times of numbers (N,), and the time of the least noise after them, unless the end is clean.

    Raises:
        ValueError: numbers are equal or above T - 1, because there are too many steps.
    """
    if numbers[0] > schedule.steps - 1 or (np.diff(numbers) >= 0).any():
        raise ValueError(
            f"{len(numbers)} steps are too many for this spacing of {schedule.steps} discrete times: reduce the steps, "
            f"or choose spacing 'uniform'"
        )
    times = start * schedule.time(ops.convert_to_tensor(numbers.astype("float32")))
    return times if clean_end else ops.concatenate([times, schedule.time(ops.zeros((1,)))])


@dataclass(frozen=True, kw_only=True)
class Leading:
    """Numbers k S + `offset`, where S = floor(T / N): the least noise is visited, and pure noise is not.

    This is DDIM's spacing (Song et al. 2021), and Stable Diffusion's with ``offset: 1, clean_end: false``.

    Args:
        offset: Added to all numbers.
        endpoint: Whether the least noise is visited. If False, S is floor(T / (N + 1)), and the last one of N + 1
            numbers is left out, as diffusers does for DPM-Solver, UniPC and DEIS.
        clean_end: Whether sampling ends without noise, or else with that of number 0.
    """

    offset: Annotated[int, Field(ge=0)] = 0
    endpoint: bool = True
    clean_end: bool = True

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        count = steps if self.endpoint else steps + 1
        numbers = np.arange(count)[::-1] * (schedule.steps // count) + self.offset
        return _times(schedule, numbers[:steps], start, self.clean_end)


@dataclass(frozen=True, kw_only=True)
class Trailing:
    """Numbers round(T - i T / N) - 1: sampling starts from pure noise, as Lin et al. 2024 recommend (section 3.3).

    Args:
        clean_end: Whether sampling ends without noise, or else with that of number 0.
    """

    clean_end: bool = True

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        numbers = np.round(schedule.steps - np.arange(steps) * (schedule.steps / steps)) - 1
        return _times(schedule, numbers, start, self.clean_end)


@dataclass(frozen=True, kw_only=True)
class Linspace:
    """Evenly spaced numbers from T - 1 to `last` (Nichol and Dhariwal 2021, section 4).

    Args:
        last: The last number. SD3's is 1.994 in diffusers, where the shift of the flow acts twice on it.
        endpoint: Whether the last number is visited. If False, there are N + 1 such numbers, and the last one is left
            out, as diffusers does for DPM-Solver, UniPC and DEIS.
        rounded: Whether the numbers are rounded to integers. In diffusers, they are not for Euler, Heun and LMS.
        clean_end: Whether sampling ends without noise, or else with that of number 0.
    """

    last: Annotated[float, Field(ge=0)] = 0.0
    endpoint: bool = True
    rounded: bool = True
    clean_end: bool = True

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        most = schedule.steps - 1
        count = steps if self.endpoint else steps + 1
        numbers = np.linspace(self.last, most, count)[::-1] if count > 1 else np.array([most])
        return _times(schedule, np.round(numbers[:steps]) if self.rounded else numbers[:steps], start, self.clean_end)
