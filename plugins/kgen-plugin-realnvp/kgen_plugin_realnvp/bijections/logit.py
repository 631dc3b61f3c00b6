"""From the unit interval to the real line."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Tensor


class Logit(Bijection):
    """``y = logit(alpha + (1 - 2 alpha) x)`` (Dinh et al. 2017, section 4.1; Papamakarios et al. 2017, appendix C).

    The flow may then have the whole real line, but images the interval only.

    Args:
        alpha: In [0, 0.5); keeps black and white pixels, x = 0 and 1, from infinity. As in the code of the paper, it is
            taken from both ends.
    """

    def __init__(self, alpha: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        x = self.alpha + (1.0 - 2.0 * self.alpha) * x
        low, high = ops.log(x), ops.log(1.0 - x)
        return low - high, ops.sum(math.log(1.0 - 2.0 * self.alpha) - low - high, axis=(1, 2, 3))

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        """May leave [0, 1], by alpha at most."""
        return (ops.sigmoid(y) - self.alpha) / (1.0 - 2.0 * self.alpha)
