"""What the decoder's numbers say about the image: p(x | z), as options.

A configuration says ``observation: {kind: gaussian, deviation: pixel}``. Every plugin can add a model:
``registry.add("vae.observation", "mine", "package.module:Mine", summary=...)``. It is a class with the members of
`Observation`, such as a frozen dataclass whose fields are the options.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from kgen_plugin_vae.observations.bernoulli import Bernoulli
from kgen_plugin_vae.observations.gaussian import Gaussian
from kgen_plugin_vae.observations.logistic import Logistic

Tensor = Any


class Observation(Protocol):
    """What a `vae.observation` is: how many numbers it wants, and functions of these.

    The numbers are `parameters` (B, H, W, N), float32.

    Attributes:
        shared: How many of the numbers, the last, are learned for all pixels of all images.
        dither: Width of the uniform noise that x is to get before `log_prob`, 0 for none.
        pixels: Whether x are 8-bit images in [-1, 1]; otherwise an autoencoder's latents, too.
        likelihood_of: Of which images alone `log_prob` is a likelihood, for a label: "black-and-white"; "": of all.
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
        """The numbers before training, everywhere in the image: (N,)."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """(B,) nats."""

    def mean(self, parameters: Tensor) -> Tensor:
        """(B, H, W, C)."""

    def mode(self, parameters: Tensor) -> Tensor:
        """(B, H, W, C)."""

    def sample(self, parameters: Tensor, keys: Tensor) -> Tensor:
        """(B, H, W, C), drawn with `kgen.random` from keys (B, 2)."""


__all__ = ["Bernoulli", "Gaussian", "Logistic", "Observation"]
