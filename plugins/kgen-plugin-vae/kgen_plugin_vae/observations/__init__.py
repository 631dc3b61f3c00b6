"""What the decoder's numbers say about the picture: p(x | z), as options.

A configuration says ``observation: {kind: gaussian, deviation: pixel}``. An observation model is data: how many numbers
it wants, and functions of them. `parameters` below are (B, H, W, N) float32.

    initial(channels)           (N,) the numbers before training, everywhere in the picture.
    shared                      How many of them, the last, are learned for all pixels of all pictures.
    dither                      Width of the uniform noise that x is to get before `log_prob`, 0 for none.
    log_prob(parameters, x)     (B,) nats.
    mean(parameters)            (B, H, W, C), and `mode` the same.
    sample(parameters, keys)    (B, H, W, C), drawn with `kgen.random` from keys (B, 2).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kgen_plugin_vae.observations.bernoulli import Bernoulli
from kgen_plugin_vae.observations.gaussian import Gaussian
from kgen_plugin_vae.observations.logistic import Logistic

Observation = Annotated[Logistic | Gaussian | Bernoulli, Field(discriminator="kind")]
"""The type of an option that takes any observation model."""

__all__ = ["Bernoulli", "Gaussian", "Logistic", "Observation"]
