"""What the network predicts, and how the clean picture follows from it.

All of them are one affine map away from each other: a prediction is picture * x_0 + noise * eps, with weights that
depend on alpha and sigma, so that x_0 and eps come back from it and x_t by solving two equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from keras import ops

Tensor = Any
Name = Literal["eps", "x0", "v", "velocity", "edm"]

_WEIGHTS: dict[Name, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "eps": lambda alpha, sigma: (ops.zeros_like(alpha), ops.ones_like(sigma)),  # Ho et al. 2020
    "x0": lambda alpha, sigma: (ops.ones_like(alpha), ops.zeros_like(sigma)),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho 2022, appendix D
    "velocity": lambda alpha, sigma: (-ops.ones_like(alpha), ops.ones_like(sigma)),  # Liu et al. 2022: eps - x_0
}


def target(name: Name, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """What the network should give. Tensors broadcast: alpha and sigma are (B, 1, ...)."""
    if name == "edm":
        # (x0 - c_skip x) / c_out, multiplied out: it has no pole at sigma = 0
        deviation = ops.sqrt((alpha * sigma_data) ** 2 + sigma**2)
        return (sigma * x0 - alpha * sigma_data**2 * eps) / (sigma_data * deviation)
    picture, noise = _WEIGHTS[name](alpha, sigma)
    return picture * x0 + noise * eps


def denoised(name: Name, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """The clean picture x_0 that a network output stands for, given the noisy picture x."""
    if name == "edm":
        skip, out, _ = edm_scalings(alpha, sigma, sigma_data)
        return skip * x + out * output
    if name == "x0":
        return output
    picture, noise = _WEIGHTS[name](alpha, sigma)
    # x = alpha x0 + sigma eps and output = picture x0 + noise eps, solved for x0
    determinant = noise * alpha - sigma * picture
    return (noise * x - sigma * output) / ops.maximum(determinant, 1e-4)


def input_scale(name: Name, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """What x is multiplied by before the network sees it: brings it to unit variance for "edm", else 1."""
    return edm_scalings(alpha, sigma, sigma_data)[2] if name == "edm" else ops.ones_like(sigma)


def edm_scalings(alpha: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in of Karras et al. 2022, table 1, for any alpha (with alpha = 1 they are the paper's)."""
    variance = (alpha * sigma_data) ** 2 + sigma**2
    return alpha * sigma_data**2 / variance, sigma * sigma_data / ops.sqrt(variance), 1.0 / ops.sqrt(variance)
