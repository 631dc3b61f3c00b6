"""The posterior of an autoencoder with a KL penalty: a normal distribution of each number of the latent."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from kgen.random import per_example

Tensor = Any

LOG_VARIANCE = (-30.0, 20.0)
"""Bounds of the log variance, which keep its exponential finite."""


class Posterior(NamedTuple):
    """A normal distribution with independent dimensions.

    Attributes:
        mean, log_variance: (B, h, w, C) each.
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Posterior:
        """The distribution that an encoder network describes: means and log variances (B, h, w, 2 * C)."""
        mean, log_variance = ops.split(moments, 2, axis=-1)
        return cls(mean, ops.clip(log_variance, *LOG_VARIANCE))

    def sample(self, seed: Any) -> Tensor:
        """One sample (B, h, w, C)."""
        noise = per_example(keras.random.normal, ops.shape(self.mean), seed)
        return self.mean + ops.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """The divergence from N(0, I), in nats per dimension (B,)."""
        terms = ops.square(self.mean) + ops.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * ops.mean(terms, axis=(1, 2, 3))


def kl_losses(posterior: Posterior, terms: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The losses of an autoencoder with a KL penalty: the reconstruction loss plus the weighted divergence.

    Args:
        posterior: The posterior, of which the reconstruction is one sample.
        terms: What `ReconstructionLoss` returned for the reconstruction.
        weight: Weight of the divergence from N(0, I).

    Returns:
        (B,) each: "loss", "kl" in nats per dimension of the latent, and the other `terms`.
    """
    kl = posterior.kl()
    others = {name: term for name, term in terms.items() if name != "reconstruction_loss"}
    return {"loss": terms["reconstruction_loss"] + weight * kl, "kl": kl, **others}
