"""Weights of the noise levels in the loss.

A weight multiplies the squared error of the network's output. An output error d implies a squared error of x_0 of
d^2 * `Prediction.x0_factor`, so this factor turns a weight for the error of x_0 into one for the output.
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
    """Returns the weight of the squared error of the network's output.

    "uniform": 1 (for "edm" this is the weighting of Karras et al. 2022, table 1). "snr": the loss is the squared error
    of eps, whatever is predicted. "min-snr": it is the squared error of x_0, weighted by min(SNR, gamma) (Hang et al.
    2023, equation 7).
    """
    if name == "uniform":
        return ops.ones_like(sigma)
    snr = (alpha / ops.maximum(sigma, 1e-4)) ** 2
    factor = prediction.x0_factor(alpha, sigma, sigma_data)
    return factor * (ops.minimum(snr, gamma) if name == "min-snr" else snr)
