"""The options of observation models: the distribution p(x | z) with the decoder's output as parameters.

A configuration has ``observation: {kind: gaussian, deviation: pixel}``. Any plugin can add a model:
``registry.add("vae.observation", "mine", "package.module:Mine", summary=...)``. The target is a class with the members
of `Observation`, such as a frozen dataclass whose fields are its options.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from kgen_plugin_vae.observations.bernoulli import Bernoulli
from kgen_plugin_vae.observations.gaussian import Gaussian
from kgen_plugin_vae.observations.logistic import Logistic

Tensor = Any


class Observation(Protocol):
    """The protocol of a `vae.observation`: the number of its parameters, and functions of them.

    The decoder's output is `parameters` (B, H, W, N), float32.

    Attributes:
        shared: Number of parameters, the last ones, that are shared by all pixels of all images.
        dither: Width of the uniform noise to add to x before `log_prob`, 0 for none.
        pixels: Whether x must be 8-bit images in [-1, 1]. If not, x may also be an autoencoder's latents.
        likelihood_of: Kind of images for which alone `log_prob` is a likelihood, for a label, such as
            "black-and-white". "" means all images.
    """

    @property
    def shared(self) -> int: ...

    @property
    def dither(self) -> float: ...

    @property
    def pixels(self) -> bool: ...

    @property
    def likelihood_of(self) -> str: ...

    def initial(self, channels: int) -> np.ndarray:
        """Returns the parameters of every pixel before training: (N,)."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Returns log p(x | z): (B,) nats."""

    def mean(self, parameters: Tensor) -> Tensor:
        """Returns the mean image (B, H, W, C)."""

    def mode(self, parameters: Tensor) -> Tensor:
        """Returns the most likely image (B, H, W, C), or an approximation of it."""

    def sample(self, parameters: Tensor, keys: Tensor) -> Tensor:
        """Samples an image (B, H, W, C) with `kgen.random` from keys (B, 2)."""


__all__ = ["Bernoulli", "Gaussian", "Logistic", "Observation"]
