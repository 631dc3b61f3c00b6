"""The logit, which maps the unit interval to the real line."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Tensor


class Logit(Bijection):
    """``y = logit(alpha + (1 - 2 alpha) x)`` (Dinh et al. 2017, section 4.1; Papamakarios et al. 2017, appendix C).

    The flow then works on the whole real line, while images stay in the interval.

    Args:
        alpha: Margin at both ends, in [0, 0.5), as in the code of the paper. It keeps the logit finite for black and
            white pixels, x = 0 and 1.
    """

    def __init__(self, alpha: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        x = self.alpha + (1.0 - 2.0 * self.alpha) * x
        low, high = ops.log(x), ops.log(1.0 - x)
        return low - high, ops.sum(math.log(1.0 - 2.0 * self.alpha) - low - high, axis=(1, 2, 3))

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        """Inverts the map. The result may leave [0, 1] by at most alpha / (1 - 2 alpha)."""
        return (ops.sigmoid(y) - self.alpha) / (1.0 - 2.0 * self.alpha)
