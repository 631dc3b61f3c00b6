"""The latents of one level, told apart by where the prior would have put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

Tensor = Any


@dataclass(frozen=True)
class Latent:
    """Latents u of one level, drawn from a posterior, in the coordinates in which the prior is N(0, I).

    With the prior N(prior mean, prior deviation^2) of z, u is (z - prior mean) / prior deviation. The posterior of u
    is N(shift, exp(log_ratio)^2): that is the residual parameterization of Vahdat and Kautz (2020, section 3.2), whose
    delta mu is ``shift * prior deviation``, and whose delta sigma is ``exp(log_ratio)``. Densities of z under posterior
    and prior have the same Jacobian, so that their ratio is that of u.

    Args:
        eps: (B, ..., C) what u was drawn with, N(0, I).
        shift, log_ratio: (B, ..., C) of the posterior.
    """

    eps: Tensor
    shift: Tensor
    log_ratio: Tensor

    @property
    def u(self) -> Tensor:
        """(B, ..., C), by reparameterization (Kingma and Welling 2014, section 2.4)."""
        return self.shift + ops.exp(self.log_ratio) * self.eps

    def kl(self) -> Tensor:
        """KL(posterior || prior) of every channel (B, C), in nats, summed over positions.

        The closed form of Vahdat and Kautz (2020), equation 2.
        """
        terms = 0.5 * (ops.square(self.shift) + ops.expm1(2.0 * self.log_ratio)) - self.log_ratio
        return ops.sum(terms, axis=_positions(terms))

    def log_prior_over_posterior(self) -> Tensor:
        """log p(z) - log q(z | x) at the drawn z: (B,), in nats. Its mean over draws is minus the KL divergence."""
        terms = 0.5 * (ops.square(self.eps) - ops.square(self.u)) + self.log_ratio
        return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))


def total_kl(latents: Sequence[Latent], free_bits: float = 0.0) -> Tensor:
    """KL divergence of all levels together: (B,), in nats.

    Args:
        latents: By level. That of a level below the first is an estimate, at one draw of the levels above it.
        free_bits: lambda of Kingma et al. (2016, equation 15), in nats: a channel of a level costs at least that much,
            so that there is no gain in using it less. There, lambda bounds the mean over a batch; here, each example's.
    """
    channels = [latent.kl() for latent in latents]  # (B, C) each
    if free_bits:
        channels = [ops.maximum(kl, free_bits) for kl in channels]
    return sum((ops.sum(kl, axis=1) for kl in channels[1:]), ops.sum(channels[0], axis=1))


def _positions(x: Tensor) -> tuple[int, ...]:
    """Axes between the batch and the channels."""
    return tuple(range(1, len(x.shape) - 1))
