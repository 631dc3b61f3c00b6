"""Bernoulli distributions, for black-and-white images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops

from kgen.random import uniform

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Every value of an image is -1 or 1 (Kingma and Welling 2014, appendix C.1).

    A value x between them is read as a probability (x + 1) / 2 of 1, and `log_prob` is the mean over such binary
    images. This is a likelihood of black-and-white images only. For gray images it is neither a density nor a
    probability (Loaiza-Ganem and Cunningham 2019), and must not be compared with that of other models.
    """

    shared: ClassVar[int] = 0
    dither: ClassVar[float] = 0.0
    pixels: ClassVar[bool] = True
    likelihood_of: ClassVar[str] = "black-and-white"

    def initial(self, channels: int) -> np.ndarray:
        return np.zeros(channels)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Returns the log-probability of x (B, H, W, C) in [-1, 1]: (B,) nats."""
        white = (x + 1.0) / 2.0
        return ops.sum(white * parameters - ops.softplus(parameters), axis=(1, 2, 3))

    def mean(self, parameters: Tensor) -> Tensor:
        return ops.tanh(parameters / 2.0)  # 2 sigmoid(.) - 1

    def mode(self, parameters: Tensor) -> Tensor:
        return ops.where(parameters > 0.0, 1.0, -1.0)

    def sample(self, parameters: Tensor, keys: Tensor) -> Tensor:
        u = uniform(keys, 0, tuple(parameters.shape[1:]))
        return ops.where(u < ops.sigmoid(parameters), 1.0, -1.0)
