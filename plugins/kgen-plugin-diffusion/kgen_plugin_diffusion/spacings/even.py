"""Evenly spaced times, and their squares."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen_plugin_diffusion.schedules import Schedule


def uniform(schedule: Schedule, steps: int, start: Any) -> Any:
    """Returns evenly spaced times (N,) from `start`; the next one would be 0.

    For variance exploding schedules, which have noise at t = 0, the last one is 0. For "karras", this is equation 5 of
    Karras et al. 2022.
    """
    count = max(1, steps - 1) if schedule.variance_exploding else steps
    return start * (1.0 - ops.arange(steps, dtype="float32") / count)


def quadratic(schedule: Schedule, steps: int, start: Any) -> Any:
    """Returns the squares of `uniform`, which are finer toward the image (Song et al. 2021, DDIM)."""
    return start * uniform(schedule, steps, 1.0) ** 2
