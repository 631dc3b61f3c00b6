"""An autoencoder with tokens as latents: the decoder of token models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
from keras import ops

from kgen import Decoder, OneOf, Space
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.networks import DecoderNetwork, EncoderNetwork, Network
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.quantizers import Quantizer, Vector
from kgen_plugin_codecs.reconstruction import Name
from kgen_plugin_codecs.reconstruction_loss import ReconstructionLoss

Tensor = Any
STARTING_VECTORS = 100
"""Largest number of vectors per code that are clustered for the initial codebook."""


class VQAutoencoder(Decoder):
    """An autoencoder of images with small maps of tokens as latents (van den Oord et al. 2017).

    With a perceptual and an adversarial loss, it is a VQGAN (Esser et al. 2021).

    Args:
        quantizer: Quantizer: `Vector` with a learned codebook, `FiniteScalar` without, or another `codecs.quantizer`,
            with its options.
        network: Size of encoder and decoder network, which also sets the downsampling factor.
        reconstruction: Distance of pixels: "l1", "l2" or "logistic", see `reconstruction_loss`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.

    Raises:
        SpaceError: The images are not a grid of (height, width, channels), or the factor does not divide them.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        quantizer: Annotated[Quantizer, OneOf("codecs.quantizer")] = Vector(),  # noqa: B008 (it is frozen)
        network: Network = Network(),  # noqa: B008
        reconstruction: Name = "l1",
        perceptual: Perceptual | None = None,
        discriminator: Discriminator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.quantizer = quantizer
        self.network = network
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        network.grid(image_space)
        policy = self.dtype_policy
        self.encoder_network = EncoderNetwork(network, quantizer.dim, dtype=policy, name="analysis")
        self.decoder_network = DecoderNetwork(network, image_space.shape[-1], dtype=policy, name="synthesis")
        self.quantization = quantizer.build()
        self.reconstruction_loss = ReconstructionLoss(
            reconstruction, perceptual, discriminator, dtype="float32", name="reconstruction_loss"
        )

    @property
    def latent_space(self) -> Space:
        return Space("tokens", self.grid, vocabulary=self.quantizer.vocabulary)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.network.grid(self.image_space)

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError if the downsampling factor does not divide the height and the width."""
        self.network.grid(image_space)

    def build(self, input_shape: None = None) -> None:
        images, vectors = (None, *self.image_space.shape), (None, *self.grid, self.quantizer.dim)
        self.encoder_network.build(images)
        self.quantization.build(vectors)
        self.decoder_network.build(vectors)
        self.reconstruction_loss.build(images, images)

    @property
    def inference_weights(self) -> list[Any]:
        return [*self.encoder_network.weights, *self.decoder_network.weights, *self.quantization.weights]

    # ---- training -------------------------------------------------------------------------------------------------

    def initialize(self, batches: Iterable[np.ndarray]) -> None:
        if not hasattr(self.quantization, "start_from"):
            return
        wanted, found = STARTING_VECTORS * self.quantizer.vocabulary, []
        for vectors in self._vectors(batches):
            found.append(vectors.reshape(-1, self.quantizer.dim))
            if sum(map(len, found)) >= wanted:
                break
        together = np.concatenate(found)[:wanted]
        if len(together) > self.quantizer.vocabulary:
            self.quantization.start_from(together)

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss plus the distance of vectors from their codes (equation 3 of the paper).

        Returns:
            (B,) each: "loss", the weighted "commitment", and the terms of `ReconstructionLoss`.
        """
        images = ops.cast(images, "float32")
        quantized, _, commitment = self.quantization(self.encoder_network(images), training=training)
        terms = self.reconstruction_loss(images, self.decoder_network(quantized), training=training)
        return {"loss": terms.pop("reconstruction_loss") + commitment, "commitment": commitment, **terms}

    def _vectors(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            images = ops.convert_to_tensor(batch.astype("float32") / 127.5 - 1.0)
            yield ops.convert_to_numpy(self.encoder_network(images))

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        """Returns the number of codes in use, and their perplexity (exponential of the entropy of frequencies)."""
        size = self.quantizer.vocabulary
        counts = np.zeros(size)
        for batch in batches:
            codes = self.encode(ops.convert_to_tensor(batch.astype("float32") / 127.5 - 1.0))
            counts += np.bincount(ops.convert_to_numpy(codes).reshape(-1), minlength=size)
        share = counts[counts > 0] / counts.sum()
        perplexity = float(np.exp(-np.sum(share * np.log(share))))
        return {
            "codes": float(size),
            "codes used": float((counts > 0).sum()),
            "perplexity": perplexity,
            "perplexity, share of the codes": perplexity / size,
        }

    # ---- both directions ------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        return self.quantization(self.encoder_network(images))[1]

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return self.decoder_network(self.quantization.lookup(ops.cast(latent, "int32")))
