"""How much each noise level counts in the loss.

A weight is given for the squared error of the network's own output. With r = alpha^2 / sigma^2, the error of x_0 that
goes with an output error d is (x_0 error)^2 = d^2 * `Prediction.x0_factor`, so that "uniform in x_0" is a factor of
that.
"""

from __future__ import annotations

from typing import Any, Literal

from keras import ops

from kgen_plugin_diffusion.predictions import Prediction

Tensor = Any
Name = Literal["uniform", "snr", "min-snr"]


def weight(
    name: Name, prediction: Prediction, alpha: Tensor, sigma: Tensor, *, gamma: float, sigma_data: float
) -> Tensor:
    """Weight of the squared error of the network's output.

    "uniform": 1 (for "edm" this is the weighting of Karras et al. 2022, table 1). "snr": the error of eps, whatever is
    predicted. "min-snr": that of x_0 weighted by min(SNR, gamma) (Hang et al. 2023, equation 7).
    """
    if name == "uniform":
        return ops.ones_like(sigma)
    snr = (alpha / ops.maximum(sigma, 1e-4)) ** 2
    factor = prediction.x0_factor(alpha, sigma, sigma_data)
    return factor * (ops.minimum(snr, gamma) if name == "min-snr" else snr)
