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


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """Base class of spacings by numbers.

    Args:
        clean_end: Whether sampling ends without noise, or else with that of number 0.
    """

    clean_end: bool = True

    def numbers(self, schedule: Schedule, steps: int) -> np.ndarray:
        """Returns the numbers of the times (N,), from noise to image."""
        raise NotImplementedError

    def check(self, schedule: Schedule, steps: int) -> None:
        """Raises ValueError unless the numbers fall, from T - 1 at most."""
        numbers, last = self.numbers(schedule, steps), schedule.steps - 1
        if numbers[0] > last or (np.diff(numbers) >= 0).any():
            raise ValueError(
                f"steps: {steps} does not fit into the {schedule.steps} discrete times of this spacing: their numbers "
                f"would go from {numbers[0]:g} to {numbers[-1]:g}, but must fall without repetition, from at most "
                f"{last}. Reduce the steps, change the options of the spacing, or choose spacing 'uniform'"
            )

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any:
        self.check(schedule, steps)
        numbers = ops.convert_to_tensor(self.numbers(schedule, steps).astype("float32"))
        times = start * schedule.time(numbers)
        return times if self.clean_end else ops.concatenate([times, schedule.time(ops.zeros((1,)))])


@dataclass(frozen=True, kw_only=True)
class Leading(Numbered):
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

    def numbers(self, schedule: Schedule, steps: int) -> np.ndarray:
        count = steps if self.endpoint else steps + 1
        numbers = np.arange(count)[::-1] * (schedule.steps // count) + self.offset
        return numbers[:steps]


@dataclass(frozen=True, kw_only=True)
class Trailing(Numbered):
    """Numbers round(T - i T / N) - 1: sampling starts from pure noise, as Lin et al. 2024 recommend.

    Args:
        clean_end: Whether sampling ends without noise, or else with that of number 0.
    """

    def numbers(self, schedule: Schedule, steps: int) -> np.ndarray:
        return np.round(schedule.steps - np.arange(steps) * (schedule.steps / steps)) - 1


@dataclass(frozen=True, kw_only=True)
class Linspace(Numbered):
    """Evenly spaced numbers from T - 1 to `last` (Nichol and Dhariwal 2021).

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

    def numbers(self, schedule: Schedule, steps: int) -> np.ndarray:
        most = schedule.steps - 1
        count = steps if self.endpoint else steps + 1
        numbers = np.linspace(self.last, most, count)[::-1] if count > 1 else np.array([most])
        return np.round(numbers[:steps]) if self.rounded else numbers[:steps]
