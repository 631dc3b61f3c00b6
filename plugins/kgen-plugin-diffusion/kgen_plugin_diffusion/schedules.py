"""Noise schedules: the amounts of image (alpha) and of noise (sigma) at time t.

A noisy image is x_t = alpha(t) x_0 + sigma(t) eps, with t from 0 (clean) to 1 (noise). The algorithms of this package
use alpha, sigma and `noise_cond`, the noise level that is the network's input.

Any plugin can add one: ``registry.add("diffusion.schedule", "mine", "package.module:MINE", summary=...)``. The schedule
is an instance of a subclass of `Schedule`, or the subclass itself, such as a frozen dataclass whose fields are its
options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from keras import ops
from pydantic import Field

from kgen.nn import cosine_schedule

Tensor = Any

STEPS = 1000  # of the discrete schedule of Ho et al. 2020
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # Karras et al. 2022, table 1


class Schedule:
    """Base class of noise schedules.

    Attributes:
        variance_exploding: Whether samplers solve for x / alpha, to which noise of the level sigma / alpha is added
            (Song et al. 2021, score-based models). This level must be positive and finite from t = 0 to 1, as in the
            schedules "karras", where alpha is 1, and "discrete". Otherwise they solve for x / (alpha + sigma).
        steps: Number of the discrete times, for spacings that are defined by them.
    """

    variance_exploding: ClassVar[bool] = False
    steps: int = STEPS

    def time(self, number: Tensor) -> Tensor:
        """Returns the discrete time of a number from 0 (least noise) to `steps` - 1, elementwise, in [0, 1]."""
        return (number + 1.0) / self.steps

    def start_deviation(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns the standard deviation of the noise from which sampling starts, at the first noise level."""
        return sigma

    def alpha(self, t: Tensor) -> Tensor:
        """Returns the amount of image at times t in [0, 1], elementwise."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Returns the amount of noise at times t in [0, 1], elementwise."""
        raise NotImplementedError

    def noise_cond(self, t: Tensor, sigma: Tensor) -> Tensor:
        """Returns the noise level that is the network's input, about 0 to 1000."""
        return t * STEPS

    def log_snr(self, t: Tensor) -> Tensor:
        """Returns log(alpha^2 / sigma^2), bounded to +-20."""
        return 2.0 * (ops.log(ops.maximum(self.alpha(t), 4e-5)) - ops.log(ops.maximum(self.sigma(t), 4e-5)))

    def time_at(self, log_snr: Tensor) -> Tensor:
        """Returns the time at which `log_snr` has these values, elementwise, by bisection; 0 or 1 if there is none."""

        def halve(_: Tensor, bounds: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            low, high = bounds
            middle = 0.5 * (low + high)
            noisier = self.log_snr(middle) < log_snr
            return ops.where(noisier, low, middle), ops.where(noisier, middle, high)

        return ops.fori_loop(0, 30, halve, (ops.zeros_like(log_snr), ops.ones_like(log_snr)))[1]


def linear_alphas_cumprod() -> np.ndarray:
    """Returns the cumulative products of 1 - beta_t, beta from 1e-4 to 0.02, at times 0 (clean) to 1000: (1001,)."""
    betas = np.linspace(1e-4, 0.02, STEPS)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)])


def _linear_log_alpha_bar(t: Tensor) -> Tensor:
    """Returns the log of `linear_alphas_cumprod` at t * 1000, interpolated between the discrete times."""
    table = ops.convert_to_tensor(np.log(linear_alphas_cumprod()).astype("float32"))
    position = ops.clip(t, 0.0, 1.0) * STEPS
    lower = ops.minimum(ops.floor(position), STEPS - 1.0)
    share = position - lower
    index = ops.cast(lower, "int32")
    return (1.0 - share) * ops.take(table, index) + share * ops.take(table, index + 1)


def _karras_sigma(t: Tensor) -> Tensor:
    """Karras et al. 2022, equation 5, from sigma 0.002 at t = 0 to 80 at t = 1."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (low + t * (high - low)) ** RHO


class Linear(Schedule):
    """Betas that rise linearly (Ho et al. 2020)."""

    def alpha(self, t: Tensor) -> Tensor:
        return ops.exp(0.5 * _linear_log_alpha_bar(t))

    def sigma(self, t: Tensor) -> Tensor:
        return ops.sqrt(-ops.expm1(_linear_log_alpha_bar(t)))  # expm1 stays exact near t = 0


class Cosine(Schedule):
    """A cosine of the time (Nichol and Dhariwal 2021); the largest t keeps their beta below 0.999."""

    def alpha(self, t: Tensor) -> Tensor:
        return cosine_schedule(t, 0.008, 0.9999)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return cosine_schedule(t, 0.008, 0.9999)[1]


class RectifiedFlow(Schedule):
    """A straight line from image to noise (Liu et al. 2022; Lipman et al. 2023)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t * 1.0


@dataclass(frozen=True, kw_only=True)
class ShiftedFlow(RectifiedFlow):
    """Rectified flow whose times are shifted toward the noise, for large images (Esser et al. 2024, equation 23).

    sigma = shift t / (1 + (shift - 1) t), and the network sees 1000 sigma. Training and sampling use the same shift.

    Args:
        shift: Factor by which sigma / alpha is multiplied: 3 in Stable Diffusion 3. 1 means no shift.
    """

    shift: Annotated[float, Field(gt=0)] = 3.0

    def alpha(self, t: Tensor) -> Tensor:
        return (1.0 - t) / (1.0 + (self.shift - 1.0) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)

    def noise_cond(self, t: Tensor, sigma: Tensor) -> Tensor:
        return sigma * STEPS


class Karras(Schedule):
    """Variance exploding: noise is added to an unscaled image (Karras et al. 2022, table 1)."""

    variance_exploding = True

    def time(self, number: Tensor) -> Tensor:
        return number / (self.steps - 1.0)

    def alpha(self, t: Tensor) -> Tensor:
        return ops.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return _karras_sigma(t)

    def noise_cond(self, t: Tensor, sigma: Tensor) -> Tensor:
        return 250.0 * ops.log(sigma)  # 1000 times the c_noise of table 1


LINEAR, COSINE, RECTIFIED_FLOW, KARRAS = Linear(), Cosine(), RectifiedFlow(), Karras()
