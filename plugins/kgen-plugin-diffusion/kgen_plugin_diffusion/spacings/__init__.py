"""Spacings: the times of a schedule that a sampler visits.

A spacing is a function ``(schedule, steps, start) -> times``. Any plugin can add one:
``registry.add("diffusion.spacing", "mine", "package.module:mine", summary=...)``. The target is such a function, or a
class whose instances are called like it and whose keyword arguments are the spacing's options.
"""

from __future__ import annotations

from typing import Any, Protocol

from kgen_plugin_diffusion.schedules import Schedule
from kgen_plugin_diffusion.spacings.even import quadratic, uniform
from kgen_plugin_diffusion.spacings.levels import AlignYourSteps, Karras, exponential
from kgen_plugin_diffusion.spacings.numbered import Leading, Linspace, Trailing


class Spacing(Protocol):
    """The protocol of a `diffusion.spacing`.

    A spacing that does not work for every number of steps also has a method ``check(schedule, steps)``. It raises
    ValueError with advice, before the sampling begins.

    Args of a call:
        schedule: Noise schedule.
        steps: Number of steps N.
        start: First time, in (0, 1]; a float or a scalar tensor.

    Returns:
        The falling times (N,) at which the network is evaluated, in [0, 1]. Sampling then ends without noise. If it
        shall end at another level, its time follows: (N + 1,).
    """

    def __call__(self, schedule: Schedule, steps: int, start: Any) -> Any: ...


__all__ = [
    "AlignYourSteps",
    "Karras",
    "Leading",
    "Linspace",
    "Spacing",
    "Trailing",
    "exponential",
    "quadratic",
    "uniform",
]
