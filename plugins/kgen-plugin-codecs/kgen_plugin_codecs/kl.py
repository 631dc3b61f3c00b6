"""An autoencoder with a KL penalty toward a normal distribution: the decoder of latent diffusion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import Decoder, SeedGenerator, Space
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.networks import DecoderNetwork, EncoderNetwork, Network
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.posterior import Posterior, kl_losses
from kgen_plugin_codecs.reconstruction import Name
from kgen_plugin_codecs.reconstruction_loss import ReconstructionLoss
from kgen_plugin_codecs.scale import Scale, moments

Tensor = Any


class KLAutoencoder(Decoder):
    """An autoencoder of images with small continuous latents (Rombach et al. 2022, section 3.1).

    Latents are the means of a posterior, which a small KL penalty pulls toward N(0, I). After training, the mean and
    the deviation of each channel are measured, and generators get latents of unit variance.

    Args:
        channels: Number of channels of the latents.
        network: Size of encoder and decoder network, which also sets the downsampling factor.
        reconstruction: Distance of pixels: "l1", "l2" or "logistic", see `reconstruction_loss`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.
        kl_weight: Weight of the KL divergence from N(0, I), in nats per dimension of the latent.

    Raises:
        SpaceError: The images are not a grid of (height, width, channels), or the factor does not divide them.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        channels: PositiveInt = 4,
        network: Network = Network(),  # noqa: B008 (it is frozen)
        reconstruction: Name = "l1",
        perceptual: Perceptual | None = None,
        discriminator: Discriminator | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.channels = channels
        self.network = network
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.kl_weight = kl_weight
        network.grid(image_space)
        policy = self.dtype_policy
        self.encoder_network = EncoderNetwork(network, 2 * channels, dtype=policy, name="analysis")
        self.decoder_network = DecoderNetwork(network, image_space.shape[-1], dtype=policy, name="synthesis")
        self.scale = Scale(dtype="float32", name="scale")
        self.reconstruction_loss = ReconstructionLoss(
            reconstruction, perceptual, discriminator, dtype="float32", name="reconstruction_loss"
        )
        self.seed_generator = SeedGenerator()

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (*self.grid, self.channels), bounded=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.network.grid(self.image_space)

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError if the downsampling factor does not divide the height and the width."""
        self.network.grid(image_space)

    def build(self, input_shape: None = None) -> None:
        images, latent = (None, *self.image_space.shape), (None, *self.latent_space.shape)
        self.encoder_network.build(images)
        self.decoder_network.build(latent)
        self.scale.build(latent)
        self.reconstruction_loss.build(images, images)

    @property
    def inference_weights(self) -> list[Any]:
        return [*self.encoder_network.weights, *self.decoder_network.weights, *self.scale.weights]

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss of one sample of the posterior plus the weighted KL divergence."""
        images = ops.cast(images, "float32")
        posterior = self._posterior(images)
        made = self.decoder_network(posterior.sample(self.seed_generator))
        return kl_losses(posterior, self.reconstruction_loss(images, made, training=training), self.kl_weight)

    def _posterior(self, images: Tensor) -> Posterior:
        """(B, H, W, C) -> a distribution of (B, h, w, channels)."""
        return Posterior.of(self.encoder_network(images))

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        self.scale.measure(self._means(batches))

    def _means(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            images = ops.convert_to_tensor(batch.astype("float32") / 127.5 - 1.0)
            yield ops.convert_to_numpy(self._posterior(images).mean)

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """Returns statistics of the scaled latents: the largest absolute channel mean, the range of deviations."""
        scaled = (self.scale(ops.convert_to_tensor(z)) for z in self._means(batches))
        mean, deviation = moments(ops.convert_to_numpy(z) for z in scaled)
        return {
            "latent mean, largest": float(np.abs(mean).max()),
            "latent deviation, smallest": float(deviation.min()),
            "latent deviation, largest": float(deviation.max()),
        }

    # ---- both directions ------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        return self.scale(self._posterior(images).mean)

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return self.decoder_network(self.scale.undo(latent))
