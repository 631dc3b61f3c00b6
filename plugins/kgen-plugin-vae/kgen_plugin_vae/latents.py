"""The latents of one level, in coordinates relative to the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

Tensor = Any


@dataclass(frozen=True)
class Latent:
    """Latents u of one level, sampled from a posterior, in coordinates in which the prior is N(0, I).

    If z has the prior N(prior mean, prior deviation^2), u is (z - prior mean) / prior deviation. The posterior of u is
    N(shift, exp(log_ratio)^2). This is the residual parameterization of Vahdat and Kautz (2020, section 3.2), whose
    delta mu is ``shift * prior deviation``, and whose delta sigma is ``exp(log_ratio)``. The change from z to u has the
    same Jacobian for both densities, so their ratio is the same for z and u.

    Args:
        eps: (B, ..., C), N(0, I) noise that u was sampled with.
        shift, log_ratio: (B, ..., C), mean and log-deviation of the posterior of u.
    """

    eps: Tensor
    shift: Tensor
    log_ratio: Tensor

    @property
    def u(self) -> Tensor:
        """Latents (B, ..., C), by reparameterization (Kingma and Welling 2014, section 2.4)."""
        return self.shift + ops.exp(self.log_ratio) * self.eps

    def kl(self) -> Tensor:
        """Returns KL(posterior || prior) of each channel (B, C), in nats, summed over positions.

        This is the closed form of Vahdat and Kautz (2020), equation 2.
        """
        terms = 0.5 * (ops.square(self.shift) + ops.expm1(2.0 * self.log_ratio)) - self.log_ratio
        return ops.sum(terms, axis=_positions(terms))

    def log_prior_over_posterior(self) -> Tensor:
        """Returns log p(z) - log q(z | x) at this z: (B,), in nats. Its expectation is minus the KL divergence."""
        terms = 0.5 * (ops.square(self.eps) - ops.square(self.u)) + self.log_ratio
        return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))


def total_kl(latents: Sequence[Latent], free_bits: float = 0.0) -> Tensor:
    """Returns the KL divergence (B,), summed over all levels, in nats.

    Args:
        latents: Latents by level. The KL of each level after the first is an estimate, from one sample of the levels
            before it.
        free_bits: lambda of Kingma et al. (2016, equation 15), in nats: each channel of a level costs at least this
            much, so that the model gains nothing by using it less. There, lambda bounds the mean over a batch; here, it
            bounds each example.
    """
    channels = [latent.kl() for latent in latents]  # (B, C) each
    if free_bits:
        channels = [ops.maximum(kl, free_bits) for kl in channels]
    return sum((ops.sum(kl, axis=1) for kl in channels[1:]), ops.sum(channels[0], axis=1))


def _positions(x: Tensor) -> tuple[int, ...]:
    """Returns the axes between the batch and the channels."""
    return tuple(range(1, len(x.shape) - 1))
