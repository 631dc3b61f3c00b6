"""Prediction targets of the network, and how the clean image follows from its output.

Any plugin can add one: ``registry.add("diffusion.prediction", "mine", "package.module:MINE", summary=...)``. The target
is an instance of a subclass of `Prediction`, or the subclass itself, such as a frozen dataclass whose fields are its
options.
"""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

Tensor = Any


class Prediction:
    """Base class of prediction targets; alpha and sigma are (B, 1, ...), and all tensors broadcast.

    Most targets are linear: image * x_0 + noise * eps, with weights that depend on alpha and sigma. Together with
    x_t = alpha x_0 + sigma eps, such a target determines x_0 and eps. A subclass for it defines `weights` alone.

    Attributes:
        scaled: Whether the target depends on `sigma_data`, the standard deviation of the latents.
    """

    scaled: ClassVar[bool] = False

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weights of x_0 and of eps in the target."""
        raise NotImplementedError

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Returns the target of the network's output."""
        image, noise = self.weights(alpha, sigma)
        return image * x0 + noise * eps

    def denoised(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Returns the clean image x_0 that the network's output implies, given the noisy image x."""
        _, noise = self.weights(alpha, sigma)
        # x = alpha x0 + sigma eps and output = image x0 + noise eps, solved for x0
        return (noise * x - sigma * output) / self._determinant(alpha, sigma)

    def input_scale(self, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Returns the factor on the network's input x."""
        return ops.ones_like(sigma)

    def x0_factor(self, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Returns the squared error of x_0 per squared error of the network's output, at the same x_t."""
        return (sigma / self._determinant(alpha, sigma)) ** 2

    def _determinant(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        image, noise = self.weights(alpha, sigma)
        return ops.maximum(noise * alpha - sigma * image, 1e-4)


class Noise(Prediction):
    """The noise (Ho et al. 2020)."""

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return ops.zeros_like(alpha), ops.ones_like(sigma)


class Image(Prediction):
    """The clean image."""

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return ops.ones_like(alpha), ops.zeros_like(sigma)

    def denoised(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return output

    def x0_factor(self, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return ops.ones_like(sigma)


class V(Prediction):
    """alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D)."""

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


class Velocity(Prediction):
    """eps - x_0, the velocity of rectified flow (Liu et al. 2022)."""

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -ops.ones_like(alpha), ops.ones_like(sigma)


class Preconditioned(Prediction):
    """EDM's preconditioning, which gives the network's input and output unit variance (Karras et al. 2022)."""

    scaled = True

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        # (x0 - c_skip x) / c_out, multiplied out: it has no pole at sigma = 0
        deviation = ops.sqrt((alpha * sigma_data) ** 2 + sigma**2)
        return (sigma * x0 - alpha * sigma_data**2 * eps) / (sigma_data * deviation)

    def denoised(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        skip, out, _ = edm_scalings(alpha, sigma, sigma_data)
        return skip * x + out * output

    def input_scale(self, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return edm_scalings(alpha, sigma, sigma_data)[2]

    def x0_factor(self, alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return edm_scalings(alpha, sigma, sigma_data)[1] ** 2


EPS, X0, V_PREDICTION, VELOCITY, EDM = Noise(), Image(), V(), Velocity(), Preconditioned()


def edm_scalings(alpha: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns c_skip, c_out and c_in of Karras et al. 2022, table 1, for any alpha (the paper has alpha = 1)."""
    variance = (alpha * sigma_data) ** 2 + sigma**2
    return alpha * sigma_data**2 / variance, sigma * sigma_data / ops.sqrt(variance), 1.0 / ops.sqrt(variance)
