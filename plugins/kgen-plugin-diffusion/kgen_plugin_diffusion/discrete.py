"""The discrete noise schedules of published models, whose networks see the number of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen_plugin_diffusion.schedules import Schedule

Tensor = Any
Beta = Annotated[float, Field(gt=0, lt=1)]
MAX_BETA = 0.999  # of the cosine schedule (Nichol and Dhariwal 2021)


@dataclass(frozen=True, kw_only=True)
class Discrete(Schedule):
    """Betas at numbered steps, as most published models have been trained (Ho et al. 2020).

    alpha^2 at step k is the product of 1 - beta over the steps 0 to k. The network sees k, from 0 (least noise) to
    `steps` - 1. (In kgen's schedule "linear", it sees k + 1.) Between two steps, the angle whose cosine is alpha is
    interpolated linearly. The defaults are those of Stable Diffusion 1 and 2.

    Args:
        betas: "scaled-linear": the square roots of the betas rise linearly (the code of Rombach et al. 2022);
            "linear": the betas do (Ho et al. 2020); "cosine": alpha^2 is a squared cosine of the time (Nichol and
            Dhariwal 2021, equation 17), without `beta_start` and `beta_end`.
        beta_start, beta_end: First and last beta. None means 0.00085 and 0.012 for "scaled-linear", and 1e-4 and 0.02
            for "linear".
        steps: Number of steps.
        zero_terminal_snr: Whether alpha is shifted and scaled so that the last step is pure noise (Lin et al. 2024,
            algorithm 1). Such a model cannot predict "eps"; most predict "v".
    """

    betas: Literal["scaled-linear", "linear", "cosine"] = "scaled-linear"
    beta_start: Beta | None = None
    beta_end: Beta | None = None
    steps: Annotated[PositiveInt, Field(ge=2)] = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.betas == "cosine" and (self.beta_start is not None or self.beta_end is not None):
            raise ValueError("betas 'cosine' have no beta_start and beta_end, and would ignore them: leave them out")

    @property
    def variance_exploding(self) -> bool:  # type: ignore[override]
        return not self.zero_terminal_snr

    def time(self, number: Tensor) -> Tensor:
        return number / (self.steps - 1.0)

    def alpha(self, t: Tensor) -> Tensor:
        angle = self._angle(t)
        return ops.where(angle >= self._angles[-1], float(self._products[-1]) ** 0.5, ops.cos(angle))

    def sigma(self, t: Tensor) -> Tensor:
        return ops.sin(self._angle(t))

    def noise_cond(self, t: Tensor, sigma: Tensor) -> Tensor:
        return t * (self.steps - 1.0)

    def start_deviation(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return ops.sqrt(alpha**2 + sigma**2)  # 1: sampling starts from N(0, I) (Ho et al. 2020, algorithm 2)

    @property
    def beta_range(self) -> tuple[float, float]:
        """The first and the last beta of "scaled-linear" and "linear"."""
        first, last = (0.00085, 0.012) if self.betas == "scaled-linear" else (1e-4, 0.02)
        return (
            first if self.beta_start is None else self.beta_start,
            last if self.beta_end is None else self.beta_end,
        )

    def alphas_cumprod(self) -> np.ndarray:
        """Returns alpha^2 at each step, from the least noise to the most: (steps,) in float64."""
        return self._products.copy()

    @cached_property
    def _products(self) -> np.ndarray:
        products = np.cumprod(1.0 - self._all_betas())
        if not self.zero_terminal_snr:
            return products
        roots = np.sqrt(products)
        return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2

    def _all_betas(self) -> np.ndarray:
        if self.betas == "cosine":
            angles = (np.linspace(0.0, 1.0, self.steps + 1) + 0.008) / 1.008 * (math.pi / 2)
            bars = np.cos(angles) ** 2
            return np.minimum(1.0 - bars[1:] / bars[:-1], MAX_BETA)
        power = 2 if self.betas == "scaled-linear" else 1
        start, end = (beta ** (1 / power) for beta in self.beta_range)
        return np.linspace(start, end, self.steps) ** power

    @cached_property
    def _angles(self) -> np.ndarray:
        return np.arctan2(np.sqrt(1.0 - self._products), np.sqrt(self._products)).astype(np.float32)

    def _angle(self, t: Tensor) -> Tensor:
        table = ops.convert_to_tensor(self._angles)
        position = ops.clip(t, 0.0, 1.0) * (self.steps - 1.0)
        lower = ops.minimum(ops.floor(position), self.steps - 2.0)
        share, index = position - lower, ops.cast(lower, "int32")
        return (1.0 - share) * ops.take(table, index) + share * ops.take(table, index + 1)
