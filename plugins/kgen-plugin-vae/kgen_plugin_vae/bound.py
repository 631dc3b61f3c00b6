"""The importance-weighted bound, computed one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from kgen import fori_loop

Tensor = Any


def importance_weighted_bound(log_weight: Callable[[Tensor], Tensor], samples: int) -> Tensor:
    """Returns L_K = log mean_k w_k, with w_k = p(x, z_k) / q(z_k | x) (Burda et al. 2016, equation 8).

    Its expectation is a lower bound of log p(x) that does not fall as K grows (theorem 1 there). L_1 is the ELBO. The
    sum is kept as (m, s), sum = s exp(m), where m is the largest log w so far. So nothing overflows, and the memory is
    that of one sample.

    Args:
        log_weight: Function from the sample's number, an int32 scalar from 0, to log w_k (B,).
        samples: Number of samples K.

    Returns:
        (B,) nats.
    """
    first = log_weight(ops.convert_to_tensor(0, dtype="int32"))
    if samples == 1:
        return first

    def add(k: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        greatest, total = state
        new = log_weight(k)
        top = ops.maximum(greatest, new)
        return top, total * ops.exp(greatest - top) + ops.exp(new - top)

    greatest, total = fori_loop(1, samples, add, (first, ops.ones_like(first)))
    return greatest + ops.log(total) - math.log(samples)
